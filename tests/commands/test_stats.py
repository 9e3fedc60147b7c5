"""`captioner stats`."""

import json

import numpy as np
from PIL import Image
from support import run_command, set_param, write_dataset


def test_statistics_are_printed_and_nothing_is_written(project):
    before = sorted(project.rglob("*"))
    code, out, err = run_command("stats", cwd=project)
    assert (code, err) == (0, "")
    assert sorted(project.rglob("*")) == before
    assert "images       12    3     3   18" in out
    assert "words per caption: mean 5.0, longest 6" in out
    assert "most frequent: all 18, picture 18" in out or "most frequent: a 18, all 18" in out
    assert "50 x 40 (18)" in out
    assert "images that cannot be used: 0" in out


def test_json_has_everything(project):
    images = project / "data/tiny/images"
    (images / "004.png").write_bytes((images / "004.png").read_bytes()[:-2000])  # only its header is intact
    (images / "005.png").write_bytes((images / "002.png").read_bytes())
    Image.fromarray(np.zeros((30, 20), np.uint8)).save(images / "006.png")
    with (project / "data/tiny/captions.csv").open("a") as file:
        file.write("gone.png,an image that does not exist,train\n")
    code, out, _ = run_command("stats", "--json", cwd=project)
    assert code == 0
    found = json.loads(out)
    assert found["captions"]["images"] == {"train": 12, "val": 3, "test": 3}
    assert found["duplicates"] == [["002.png", "005.png"]]
    assert found["images"]["modes"] == {"RGB": 16, "L": 1}
    assert found["images"]["widths"] == [20, 50, 50]
    ((name, reason),) = found["images"]["unusable"]
    assert name == "004.png"
    assert reason.startswith("damaged: ")
    assert found["skipped"][0]["image"] == "gone.png"
    assert found["captions"]["coverage"][0]["by_split"]["val"] == 1.0


def test_truncated_jpegs_can_be_used_if_extract_fills_them(project):
    cut = project / "data/tiny/images/004.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(cut, "JPEG")
    cut.write_bytes(cut.read_bytes()[:-600])
    unusable = "images that cannot be used: 1\n  004.png: damaged: image file is truncated"
    assert unusable in run_command("stats", cwd=project)[1]
    set_param(project, "encoder.truncated_jpegs", "fill")
    assert "images that cannot be used: 0" in run_command("stats", cwd=project)[1]


def test_files_that_are_no_images_are_counted(project):
    (project / "data/tiny/images/a.mov").write_bytes(b"x")
    (project / "data/tiny/images/b.jpg").symlink_to("gone.jpg")
    note = "note: data/tiny/images: files that are not images: 1 .jpg (broken links), 1 .mov\n"
    assert run_command("stats", cwd=project)[2] == note
    code, out, err = run_command("stats", "--json", cwd=project)
    assert (code, err, json.loads(out)["ignored_files"]) == (0, note, ["b.jpg", "a.mov"])
    assert note in run_command("prepare", cwd=project)[2]


def test_the_longest_captions_share_a_line(project):
    with (project / "data/tiny/captions.csv").open("a") as file:
        file.write(f"004.png,{'a dog ' * 5000},train\n")
    lines = run_command("stats", cwd=project)[1].splitlines()
    assert any(line.startswith("words per caption: mean ") and line.endswith(", longest 10000") for line in lines)
    assert "more  1" in lines
    assert len(lines) < 150


def test_options_select_another_dataset(project):
    write_dataset(project / "other", images=36)
    code, out, _ = run_command("stats", "--captions", "other/captions.csv", "--images", "other/images", cwd=project)
    assert code == 0
    assert "36" in out.splitlines()[1]


def test_an_unknown_format_is_refused(project):
    code, _, err = run_command("stats", "--format", "xml", cwd=project)
    assert code == 2
    assert err.startswith(
        "error: params.data.format: must be 'auto', 'karpathy', 'coco', 'flickr30k', 'flickr8k', 'table' or 'folder'"
    )


def test_only_the_params_of_the_dataset_matter(project):
    set_param(project, "train.init_from", "starter")
    set_param(project, "vocab.unit", "character")
    set_param(project, "score", {"rerank": {"neighbors": 0}})
    code, out, err = run_command("stats", cwd=project)
    assert (code, err) == (0, "")
    assert "characters per caption: mean " in out
    assert "(space) " in out
