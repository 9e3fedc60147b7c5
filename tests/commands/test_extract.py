"""`captioner extract`: the engines and their options."""

import shutil
import sys

import pytest
import torch
from support import ROOT, run_command, run_stages, set_param
from torchvision.models import get_model

from pipeline import paths
from pipeline.datasets.tables import read_images


@pytest.mark.parametrize(
    "option",
    [("--address", "auto"), ("--manifest", "x.csv"), ("--out", "folder"), ("--shard-images", "10")],
    ids=lambda option: option[0],
)
def test_options_of_ray_are_refused_by_the_local_engine(project, option):
    code, out, err = run_command("extract", *option)
    assert (code, out, err) == (2, "", f"error: {option[0]}: only with --engine ray\n")


def test_an_unknown_engine_is_refused(project):
    code, _, err = run_command("extract", "--engine", "spark")
    assert code == 2
    assert "spark" in err
    assert "ray" in err


def test_without_ray_the_error_names_the_extra(project, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pipeline.features.ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run_command("extract", "--engine", "ray")
    assert code == 2
    assert "error: --engine ray: " in err
    assert "pip install -e '.[ray]'" in err
    assert not (project / "data/interim/features.h5").exists()


def test_unreadable_images_are_reported_and_too_many_stop_the_run(project):
    assert run_command("prepare")[0] == 0
    for name in ("000.png", "001.png"):
        (project / "data/tiny/images" / name).write_bytes(b"no longer an image")
    code, _, err = run_command("extract")
    assert code == 3
    assert "2 of 18 images cannot be decoded, more than params.data.max_skipped" in err
    assert "data/tiny/images/000.png: changed since its sha256 was recorded; run `dvc repro` again" in err
    assert "001.png" in (project / "metrics/skipped.csv").read_text()
    set_param(project, "data.max_skipped", 0.5)
    code, out, err = run_command("extract")
    assert (code, out) == (0, "")
    assert "skipped: 001.png: changed since its sha256 was recorded" in err
    assert "extract: 18 images, 16 from the store, 0 encoded in" in err
    assert "2 skipped (see metrics/skipped.csv)" in err
    assert (
        (project / "metrics/skipped.csv").read_text().splitlines()[1].startswith("extract,data/tiny/images/000.png,0,")
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: [*rows, rows[-1]], "017.png is listed twice"),
        (lambda rows: [*rows[:-1], "017.png,x.png,7.78E+63,test"], "017.png: '7.78E+63' is no sha256"),
    ],
)
def test_an_edited_list_of_images_is_refused(project, change, problem):
    run_stages(project, "prepare")
    rows = paths.IMAGES.read_text().splitlines()
    paths.IMAGES.write_text("\n".join(change(rows)) + "\n")
    code, _, err = run_command("extract")
    assert (code, f"images.csv: {problem}; run `dvc repro -f prepare`" in err) == (3, True), err


def test_a_split_that_loses_all_its_images_is_named_by_extract_and_train(project):
    run_stages(project, "prepare", "vocab")
    val = [row.path for row in read_images(paths.IMAGES) if row.split == "val"]
    for path in val:
        path.write_bytes(b"no longer an image")
    set_param(project, "data.max_skipped", 0.5)
    remedy = "repair or replace the images that metrics/skipped.csv lists, then run `dvc repro`"
    code, _, err = run_command("extract")
    assert code == 0
    assert f"warning: no image of the val split can be decoded; {remedy}" in err
    assert err.count("warning: ") == 1
    code, _, err = run_command("train")
    assert code == 3
    assert f"features.h5: has no features of images of the val split; {remedy}" in err


def test_a_folder_in_the_place_of_the_features_stops_before_the_encoder_runs(project):
    assert run_command("prepare")[0] == 0
    (project / "data/interim/features.h5").mkdir()
    code, _, err = run_command("extract")
    assert code == 5
    assert "features.h5: is a folder, but a file is to be written here; move the folder away" in err
    assert "of 18 images" not in err


def test_a_weights_file_that_dvc_does_not_watch_is_noted(project):
    assert run_command("prepare")[0] == 0
    network = get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), project / "weights.pth")
    set_param(project, "encoder.name", "mobilenet_v3_small")
    set_param(project, "encoder.weights", "weights.pth")
    set_param(project, "encoder.grid", 2)
    shutil.copy(ROOT / "dvc.yaml", project)
    note = "note: weights.pth: `dvc repro` does not notice when the content of this file changes; add it to the deps"
    code, _, err = run_command("extract")
    assert code == 0
    assert note in err
    text = (project / "dvc.yaml").read_text()
    first = "      - data/interim/code/extract.txt\n"
    (project / "dvc.yaml").write_text(text.replace(first, first + "      - weights.pth\n"))
    assert note not in run_command("extract")[2]
