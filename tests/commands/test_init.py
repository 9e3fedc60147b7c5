"""`captioner init`: from a dataset's folder to a params.yaml that runs."""

import json
import zipfile

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
    assert "set params.vocab.unit to character" in run_command("prepare", cwd=project)[2]


def test_what_cannot_be_used_leaves_params_alone(project):
    before = (project / "params.yaml").read_bytes()
    (project / "empty").mkdir()
    (project / "lonely").mkdir()
    (project / "lonely/captions.csv").write_text("image,caption\nnowhere.jpg,x\n")
    for name, words in (
        ("gone", "gone: no such file or folder"),
        ("empty", "no captions were recognised"),
        ("lonely", "holds none of the pictures, such as nowhere.jpg; give their place with --images"),
    ):
        code, _, said = run_command("init", name, cwd=project)
        assert (code, words in said, "Traceback" in said) == (3, True, False), said
    assert (project / "params.yaml").read_bytes() == before
