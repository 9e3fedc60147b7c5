"""`captioner init`: from a dataset's folder to a params.yaml that runs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, run_command, set_param

from pipeline.params import read_params


def data_of(project):
    return read_params(project / "params.yaml").data


def test_it_finds_captions_and_pictures_and_says_so(project):
    set_param(project, "data.captions", "elsewhere.csv")
    set_param(project, "data.images", "elsewhere")
    code, out, said = run_command("init", "data/tiny", cwd=project)
    assert (code, out) == (0, "")
    assert said.splitlines() == [
        "format: table: captions.csv, a table",
        "captions: 36 of 18 pictures; 3 test, 12 train, 3 val",
        "pictures: data/tiny/images",
        "params.yaml: data.format: table",
        "params.yaml: data.captions: data/tiny/captions.csv",
        "params.yaml: data.images: data/tiny/images",
        "next: dvc repro",
    ]
    assert (data_of(project).captions, data_of(project).images) == ("data/tiny/captions.csv", "data/tiny/images")
    assert run_command("prepare", cwd=project)[0] == 0


def test_it_changes_nothing_else_in_the_file(project):
    text = (ROOT / "params.yaml").read_text()
    (project / "params.yaml").write_text(text)
    assert run_command("init", "data/tiny", cwd=project)[0] == 0
    before, after = text.splitlines(), (project / "params.yaml").read_text().splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["  captions: data/tiny/captions.csv", "  images: data/tiny/images"]


def test_pictures_in_an_archive_are_found(project):
    images = project / "data/tiny/images"
    with zipfile.ZipFile(project / "data/tiny/pictures.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"deep/{path.name}")
            path.unlink()
    images.rmdir()
    said = run_command("init", "data/tiny", cwd=project)[2]
    assert "pictures: data/tiny" in said
    assert run_command("prepare", cwd=project)[2].endswith("18 hashed\n")


def test_a_script_without_spaces_brings_a_warning(project):
    rows = [{"image": f"{n:03d}.png", "caption": "\u4e00\u53ea\u72d7\u5728\u8dd1"} for n in range(18)]
    (project / "data/tiny/captions.csv").unlink()
    (project / "data/tiny/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = run_command("init", "data/tiny", cwd=project)[2]
    assert "warning: 100% of the captions are in a script that does not part words with spaces" in said
    assert "score.max_length, which counts characters then, to 60 or so, and params.score.neighbours to 0" in said
    assert "set params.vocab.unit to character" in run_command("prepare", cwd=project)[2]


def test_one_table_for_each_split_is_one_dataset(project):
    folder = project / "data/tiny"
    header, *rows = (folder / "captions.csv").read_text().splitlines()
    for split in ("train", "val", "test"):
        own = [row.removesuffix(f",{split}") for row in rows if row.endswith(f",{split}")]
        (folder / f"{split}.csv").write_text("\n".join([header.removesuffix(",split"), *own]))
    (folder / "captions.csv").unlink()
    said = run_command("init", "data/tiny", cwd=project)[2]
    assert "format: table: train.csv, val.csv, test.csv, a table for each split\n" in said
    assert "captions: 36 of 18 pictures; 3 test, 12 train, 3 val\n" in said
    assert (data_of(project).captions, data_of(project).images) == ("data/tiny", "data/tiny/images")
    assert "18 images (12 train, 3 val, 3 test), 36 captions" in run_command("prepare", cwd=project)[2]


def test_what_params_say_of_columns_and_encoding_is_used_and_kept(project):
    table = project / "data/tiny/captions.csv"
    text = table.read_text().replace("image,caption", "Photo,\u00dcberschrift").replace("red", "r\u00f6t")
    table.write_bytes(text.encode("cp1252"))
    code, _, said = run_command("init", "data/tiny/captions.csv", cwd=project)
    assert (code, "name the columns with params.data.image_column and caption_column" in said) == (3, True), said
    given = {"encoding": "cp1252", "image_column": "photo", "caption_column": "\u00dcberschrift"}
    for key, value in given.items():
        set_param(project, f"data.{key}", value)
    code, _, said = run_command("init", "data/tiny/captions.csv", cwd=project)
    assert code == 0, said
    assert "captions: 36 of 18 pictures" in said
    for key, value in given.items():
        assert f"params.yaml: data.{key}: {value} (as it was)\n" in said
        assert getattr(data_of(project), key) == value
    set_param(project, "data.format", "auto")
    said = run_command("prepare", cwd=project)[2]
    assert "format: table: captions.csv, a table\n" in said
    assert "36 captions, 0 skipped" in said


dvc = shutil.which("dvc", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))


@pytest.mark.skipif(not (dvc and shutil.which("git")), reason="needs dvc and git")
def test_what_copies_of_the_project_would_lack_is_said(project):
    def lacking(dataset="data/tiny"):
        said = run_command("init", dataset, cwd=project)[2].splitlines()
        return [line.removeprefix("note: ").partition(": ")[0] for line in said if line.startswith("note: ")]

    def run(*command):
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)

    captions, images = "data/tiny/captions.csv", "data/tiny/images"
    assert lacking() == []  # without a repository there are no copies
    run("git", "init", "-q")
    run(dvc, "init", "-q")
    run("git", "add", "params.yaml")
    assert lacking() == [f"{captions} and {images}"]
    run("git", "add", captions)
    assert lacking() == [images]
    run(dvc, "add", "-q", images)
    assert lacking() == [images]
    run("git", "add", "data/tiny/images.dvc")
    assert lacking() == []
    shutil.copytree(project / "data/tiny", project / "data/parts")
    for split in ("train", "val"):
        shutil.copy(project / "data/tiny/captions.csv", project / f"data/parts/{split}.csv")
    (project / "data/parts/captions.csv").unlink()
    (project / "data/parts/images.dvc").unlink(missing_ok=True)
    assert lacking("data/parts") == ["data/parts"]
    (project / "data/tiny").rename(project.parent / f"{project.name}-tiny")
    set_param(project, "data.images", "elsewhere")
    said = run_command("init", f"../{project.name}-tiny", cwd=project)[2]
    assert "note: " not in said
    assert f"params.yaml: data.images: {project}-tiny/images\n" in said


def test_what_cannot_be_used_leaves_params_alone(project):
    before = (project / "params.yaml").read_bytes()
    (project / "empty").mkdir()
    (project / "lonely").mkdir()
    (project / "lonely/captions.csv").write_text("image,caption\nnowhere.jpg,x\n")
    (project / "header.csv").write_text("image,caption\n")
    (project / "absolute.csv").write_text(f"image,caption\n{project}/data/tiny/images/000.png,x\n")
    for name, words in (
        ("gone", "gone: no such file or folder"),
        ("empty", "no captions were recognised"),
        ("lonely", "holds none of the pictures, such as nowhere.jpg; give their place with --images"),
        ("header.csv", "header.csv: holds a header and no rows"),
        ("absolute.csv", "the picture's path is absolute; give it relative to params.data.images"),
    ):
        code, _, said = run_command("init", name, cwd=project)
        assert (code, words in said, "Traceback" in said) == (3, True, False), said
    assert (project / "params.yaml").read_bytes() == before
