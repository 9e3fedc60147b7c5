"""`captioner init`: params.yaml for a dataset."""

import json
import os
import shutil
import zipfile

import pytest
from support import needs_git, run_command, run_program, set_param, write_project

from pipeline.params_file import read_params


def data_of(project):
    return read_params(project / "params.yaml").data


def test_captions_and_images_are_found_and_printed(project):
    set_param(project, "data.captions", "elsewhere.csv")
    set_param(project, "data.images", "elsewhere")
    code, out, err = run_command("init", "data/tiny", cwd=project)
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "format: table: captions.csv, a table",
        "captions: 36 of 18 images; 3 test, 12 train, 3 val",
        "images: data/tiny/images",
        "params.yaml: data.format: table",
        "params.yaml: data.captions: data/tiny/captions.csv",
        "params.yaml: data.images: data/tiny/images",
        "note: encoder.weights is none: random weights suit drawings only; docs/encoders.md lists trained encoders",
        "next: dvc repro",
    ]
    assert (data_of(project).captions, data_of(project).images) == ("data/tiny/captions.csv", "data/tiny/images")
    assert run_command("prepare", cwd=project)[0] == 0


@pytest.mark.parametrize(("folder", "dataset"), [("data", "tiny"), ("..", "{name}/data/tiny")])
def test_from_another_folder_the_paths_hold_in_the_project(project, folder, dataset):
    cwd = project / folder
    params = os.path.relpath(project / "params.yaml", cwd)
    assert run_command("init", dataset.format(name=project.name), "--params", params, cwd=cwd)[0] == 0
    assert (data_of(project).captions, data_of(project).images) == ("data/tiny/captions.csv", "data/tiny/images")


def test_nothing_else_in_the_file_changes(project):
    text = "# mine\nseed: 3\n\ndata:\n  format: table  # a note\n  captions: a.csv\n  images: b\ntrain: {lr: 1e-3}\n"
    (project / "params.yaml").write_text(text)
    assert run_command("init", "data/tiny", cwd=project)[0] == 0
    before, after = text.splitlines(), (project / "params.yaml").read_text().splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["  captions: data/tiny/captions.csv", "  images: data/tiny/images"]


def test_images_in_two_splits_cause_a_warning(project):
    with (project / "data/tiny/captions.csv").open("a") as file:
        file.write("000.png,a red square,train\n000.png,a red square,val\n")
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "1 image is in several splits, which `prepare` refuses; with params.data.leaks: drop it" in err


@pytest.mark.parametrize("command", [("init", "data/tiny"), ("prepare",)])
def test_a_dataset_without_a_usable_caption_is_refused(project, command):
    (project / "data/tiny/captions.csv").write_text("image,caption\n000.png,\n001.png,?\n")
    code, _, err = run_command(*command, cwd=project)
    problem = "no usable caption; 2 rows skipped, the first in data/tiny/captions.csv, line 2: the caption is empty"
    assert (code, err.splitlines()[-1]) == (3, f"error: data/tiny/captions.csv: {problem}")


def test_markers_of_captions_are_noted(project):
    (project / "data/tiny/captions.csv").write_text("image,caption\n000.png,<s> a </s>\n001.png,<s> two </s>\n")
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "note: every caption starts with '<s>' and ends with '</s>'; both are removed\n" in err


def test_an_image_has_no_split_only_if_no_row_has_one(project):
    with (project / "data/tiny/captions.csv").open("a") as file:
        file.write("000.png,a red square,\n")
    assert "37 of 18 images; 3 test, 12 train, 3 val\n" in run_command("init", "data/tiny", cwd=project)[2]


def test_two_images_are_too_few_for_three_splits(project):
    (project / "data/tiny/captions.csv").write_text("image,caption\n000.png,a red square\n001.png,a blue square\n")
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "captions: 2 of 2 images; no splits, and too few images for three\n" in err


def test_broken_links_among_the_images_cause_a_warning(project):
    (project / "data/tiny/images/gone.png").symlink_to("nowhere.png")
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "warning: 1 image is a broken symbolic link: gone.png; repair or remove them, or `dvc repro` will" in err


def test_images_in_an_archive_are_found(project):
    images = project / "data/tiny/images"
    with zipfile.ZipFile(project / "data/tiny/images.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"deep/{path.name}")
            path.unlink()
    images.rmdir()
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "images: data/tiny" in err
    assert run_command("prepare", cwd=project)[2].endswith("18 hashed\n")


@pytest.mark.parametrize(
    ("caption", "problem", "commands"),
    [
        (
            "\u4e00\u53ea\u72d7\u5728\u8dd1",
            "are in a script without spaces between words",
            [("init", "data/tiny"), ("prepare",)],
        ),
        (
            "\u0ca8\u0cbe\u0caf\u0cbf",
            "hold letters or vowel signs that the word tokenizer drops",
            [("init", "data/tiny"), ("prepare",), ("vocab",)],
        ),
    ],
)
def test_captions_that_words_do_not_suit_cause_a_warning(project, caption, problem, commands):
    rows = [{"image": f"{n:03d}.png", "caption": caption} for n in range(18)]
    (project / "data/tiny/captions.csv").unlink()
    (project / "data/tiny/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    remedy = "set params.vocab.unit to character and params.score.rerank.neighbors to 0"
    for command in commands:
        code, _, err = run_command(*command, cwd=project)
        assert code == 0
        assert f"warning: 100% of the captions {problem}; {remedy}\n" in err


def test_one_table_per_split_is_one_dataset(project):
    folder = project / "data/tiny"
    header, *rows = (folder / "captions.csv").read_text().splitlines()
    for split in ("train", "val", "test"):
        own = [row.removesuffix(f",{split}") for row in rows if row.endswith(f",{split}")]
        (folder / f"{split}.csv").write_text("\n".join([header.removesuffix(",split"), *own]))
    (folder / "captions.csv").unlink()
    err = run_command("init", "data/tiny", cwd=project)[2]
    assert "format: table: train.csv, val.csv, test.csv, one table per split\n" in err
    assert "captions: 36 of 18 images; 3 test, 12 train, 3 val\n" in err
    assert (data_of(project).captions, data_of(project).images) == ("data/tiny", "data/tiny/images")
    assert "18 images (12 train, 3 val, 3 test), 36 captions" in run_command("prepare", cwd=project)[2]


def test_columns_and_encoding_in_the_params_are_used_and_kept(project):
    table = project / "data/tiny/captions.csv"
    text = table.read_text().replace("image,caption", "Photo,\u00dcberschrift").replace("red", "r\u00f6t")
    table.write_bytes(text.encode("cp1252"))
    code, _, err = run_command("init", "data/tiny/captions.csv", cwd=project)
    assert (code, "name the columns with params.data.image_column and caption_column" in err) == (3, True), err
    given = {"encoding": "cp1252", "image_column": "photo", "caption_column": "\u00dcberschrift"}
    for key, value in given.items():
        set_param(project, f"data.{key}", value)
    code, _, err = run_command("init", "data/tiny/captions.csv", cwd=project)
    assert code == 0, err
    assert "captions: 36 of 18 images" in err
    for key, value in given.items():
        assert f"params.yaml: data.{key}: {value} (unchanged)\n" in err
        assert getattr(data_of(project), key) == value
    set_param(project, "data.format", "auto")
    err = run_command("prepare", cwd=project)[2]
    assert "format: table: captions.csv, a table\n" in err
    assert "36 captions, 0 skipped" in err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of dvc
@needs_git
def test_data_missing_in_copies_of_the_project_is_noted(project):
    def missing(dataset="data/tiny"):
        err = run_command("init", dataset, cwd=project)[2].splitlines()
        notes = [line for line in err if line.startswith("note: ") and "dvc add" in line]
        return [line.removeprefix("note: ").partition(": ")[0] for line in notes]

    captions, images = "data/tiny/captions.csv", "data/tiny/images"
    assert missing() == []  # without a repository there are no copies
    run_program("git", "init", "-q", cwd=project)
    run_program("dvc", "init", "-q", cwd=project)
    run_program("git", "add", "params.yaml", cwd=project)
    assert missing() == [f"{captions} and {images}"]
    run_program("git", "add", captions, cwd=project)
    assert missing() == [images]
    run_program("dvc", "add", "-q", images, cwd=project)
    assert missing() == [images]
    run_program("git", "add", "data/tiny/images.dvc", cwd=project)
    assert missing() == []
    shutil.copytree(project / "data/tiny", project / "data/parts")
    for split in ("train", "val"):
        shutil.copy(project / "data/tiny/captions.csv", project / f"data/parts/{split}.csv")
    (project / "data/parts/captions.csv").unlink()
    (project / "data/parts/images.dvc").unlink(missing_ok=True)
    assert missing("data/parts") == ["data/parts"]
    (project / "data/tiny").rename(project.parent / f"{project.name}-tiny")
    set_param(project, "data.images", "elsewhere")
    err = run_command("init", f"../{project.name}-tiny", cwd=project)[2]
    assert "dvc add" not in err
    assert f"params.yaml: data.images: {project}-tiny/images\n" in err


def test_an_unusable_dataset_leaves_the_params_unchanged(project):
    before = (project / "params.yaml").read_bytes()
    (project / "empty").mkdir()
    (project / "lonely").mkdir()
    (project / "lonely/captions.csv").write_text("image,caption\nnowhere.jpg,x\ngone.jpg,x\nno.jpg,x\n")
    (project / "twice/images").mkdir(parents=True)
    (project / "twice/captions.csv").write_text("image,caption\na,x\n")
    for name in ("a.jpg", "a.png"):
        (project / "twice/images" / name).touch()
    (project / "header.csv").write_text("image,caption\n")
    (project / "absolute.csv").write_text(f"image,caption\n{project}/data/tiny/images/000.png,x\n")
    for name, words in (
        ("gone", "gone: no such file or folder"),
        ("empty", "no captions were recognized"),
        ("lonely", "holds none of the images, such as gone.jpg; give their folder with --images"),
        ("twice", "twice/images: a: the name fits two files: a.jpg, a.png; give the captions the whole name"),
        ("header.csv", "header.csv: holds a header and no rows"),
        ("absolute.csv", "the image path is absolute; make it relative to params.data.images"),
    ):
        code, _, err = run_command("init", name, cwd=project)
        assert (code, words in err, "Traceback" in err) == (3, True, False), err
    err = run_command("init", "lonely", "--images", "data/tiny/images", cwd=project)[2]
    assert "holds none of the images, such as gone.jpg; correct --images or the names in the captions" in err
    assert (project / "params.yaml").read_bytes() == before


def test_images_in_a_folder_of_the_same_name_below_the_captions_are_found(project):
    """Kaggle's archive of Flickr30k unpacks so."""
    folder = project / "data/kaggle/flickr30k_images"
    shutil.copytree(project / "data/tiny/images", folder / "flickr30k_images")
    lines = [f"{n:03d}.png| {k}| a caption" for n in range(18) for k in range(2)]
    (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines]))
    code, _, err = run_command("init", "data/kaggle", cwd=project)
    assert code == 0, err
    data = data_of(project)
    assert (data.format, data.captions) == ("flickr30k", "data/kaggle/flickr30k_images/results.csv")
    assert data.images == "data/kaggle/flickr30k_images/flickr30k_images"


def test_dvc_ignores_the_built_in_dataset_where_it_is_not_used(tmp_path):
    write_project(tmp_path)
    (tmp_path / "data/scenes").mkdir()
    (tmp_path / "data/scenes/dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".dvcignore").write_bytes(b"# \xe9t\xe9\n*.pyc\n")
    _, _, message = run_command("init", "data/tiny", cwd=tmp_path)
    assert ".dvcignore: /data/scenes/ added, so that DVC ignores the built-in dataset" in message
    assert (tmp_path / ".dvcignore").read_bytes() == b"# \xe9t\xe9\n*.pyc\n/data/scenes/\n"
    assert ".dvcignore" not in run_command("init", "data/tiny", cwd=tmp_path)[2]
    (tmp_path / "data/tiny").rename(tmp_path / "data/scenes/tiny")
    assert ".dvcignore: /data/scenes/ removed" in run_command("init", "data/scenes", cwd=tmp_path)[2]
    assert (tmp_path / ".dvcignore").read_bytes() == b"# \xe9t\xe9\n*.pyc\n"


@pytest.mark.parametrize("dataset", ["data/scenes", "data/scenes/captions.csv"])
def test_the_built_in_dataset_can_be_chosen_again_before_it_is_drawn(tmp_path, dataset):
    """DVC deletes its captions while .dvcignore lists it."""
    write_project(tmp_path)
    (tmp_path / "data/scenes").mkdir()
    (tmp_path / "data/scenes/dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".dvcignore").write_text("*.pyc\n/data/scenes/\n")
    set_param(tmp_path, "data.captions", "data/scenes/captions.csv")
    code, _, err = run_command("prepare", cwd=tmp_path)
    assert code == 3
    assert "make it with `dvc repro` or `dvc pull`, after `captioner init data/scenes`" in err
    code, _, err = run_command("init", dataset, cwd=tmp_path)
    assert (code, err.splitlines()[0]) == (0, "format: table: the built-in dataset, which `dvc repro` draws")
    assert err.endswith("next: dvc repro\n")
    data = data_of(tmp_path)
    assert (data.format, data.captions, data.images) == ("table", "data/scenes/captions.csv", "data/scenes/images")
    assert (tmp_path / ".dvcignore").read_text() == "*.pyc\n"


def test_parameters_that_dvc_needs_are_named(project):
    note = (
        "note: DVC needs seed, encoder, vocab, decoder, score, data.max_skipped in params.yaml: run `captioner params"
    )
    (project / "params.yaml").write_text("train: {epochs: 1}\n")
    assert "DVC needs" not in run_command("init", "data/tiny", cwd=project)[2]  # this project has no dvc.yaml
    (project / "dvc.yaml").write_text("stages: {}\n")
    assert note in run_command("init", "data/tiny", cwd=project)[2]
    (project / "params.yaml").write_text(run_command("params", cwd=project)[1])
    assert "DVC needs" not in run_command("init", "data/tiny", cwd=project)[2]


def test_a_second_folder_with_images_of_the_same_names_causes_a_warning(project):
    shutil.copytree(project / "data/tiny/images", project / "data/tiny/other")
    (project / "data/tiny/other/000.png").write_bytes(b"another image")
    err = run_command("init", "data/tiny", cwd=project)[2]
    problem = "data/tiny/other has different images of the same names; name the right folder with --images"
    assert f"warning: {problem}\n" in err


def test_images_in_a_compressed_archive_are_named(project):
    images = project / "data/tiny/images"
    shutil.make_archive(str(images), "gztar", images)
    shutil.rmtree(images)
    for command in (("init", "data/tiny"), ("prepare",)):
        code, _, err = run_command(*command, cwd=project)
        assert code == 3
        assert err.endswith(
            "error: data/tiny/images.tar.gz: a compressed archive cannot be read; unpack it, or make a .tar or .zip\n"
        )


def test_other_names_of_the_images_are_shown(project):
    for number, image in enumerate(sorted((project / "data/tiny/images").iterdir())):
        image.rename(image.with_name(f"my dog {number:02d}x.png"))
    names = "the images in data/tiny/images are named my dog 00x.png, my dog 01x.png, my dog 02x.png\n"
    for command in (("init", "data/tiny"), ("prepare",)):
        assert names in run_command(*command, cwd=project)[2]
