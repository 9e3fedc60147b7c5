"""Imported region features, whose number varies, replace the stage `extract`."""

import csv

import numpy as np
import pytest
from support import run_command, run_stages, set_param

from pipeline.features.feature_file import FeatureFile

CHANNELS = 12
NAME = "bottom-up"


@pytest.fixture
def prepared(project):
    """A prepared project, and features of 2 to 6 regions for each of its images."""
    set_param(project, "decoder.kind", "updown")
    set_param(project, "train.epochs", 25)
    assert run_command("prepare")[0] == 0
    folder = project / "regions"
    folder.mkdir()
    for number in range(18):
        random = np.random.default_rng(number)
        values = random.normal(0, 0.1, (2 + number % 5, CHANNELS))
        values[random.integers(len(values)), number % 3] += 3  # one region shows the image's color
        np.savez(folder / f"{number:03d}.npz", feat=values.astype(np.float32))
    return project


def import_features(*arguments):
    code, _, err = run_command("import-features", "regions", "--name", NAME, *arguments)
    assert code == 0, err
    return err


def test_a_model_is_trained_and_scored_on_imported_features(prepared):
    err = import_features()
    assert "18 images with 2 to 6 regions of 12 channels" in err
    features = FeatureFile.open(prepared / "data/interim/features.h5")
    assert features.features.shape == (18, 6, CHANNELS)
    assert (features.spec.source, features.spec.name) == ("imported", NAME)
    assert not features.load(["000.png"])[0, 2:].any()
    run_stages(prepared, "vocab", "train", "score", "report")

    code, printed, err = run_command("predict", "--features", "data/interim/features.h5", "00[0-2].png", "017.png")
    assert code == 0, err
    lines = dict(line.split(": ") for line in printed.splitlines())
    assert list(lines) == ["000.png", "001.png", "002.png", "017.png"]
    for image, color in {"000.png": "red", "001.png": "green", "002.png": "blue", "017.png": "blue"}.items():
        assert color in lines[image]

    code, _, err = run_command("predict", "data/tiny/images/000.png")
    assert code == 4
    assert "trained on features of bottom-up, which another program computed" in err
    assert "captioner predict --features FILE IDS" in err

    code, printed, err = run_command("predict", "--features", "data/interim/features.h5", "000.png", "nothing.png")
    assert code == 3
    assert printed.startswith("000.png: ")
    assert "nothing.png: no such image id in data/interim/features.h5" in err

    import_features("--regions", "8")
    code, _, err = run_command("predict", "--features", "data/interim/features.h5", "000.png")
    assert code == 4
    assert "the model expects (6, 12); import them with --regions 6" in err


def test_missing_and_extra_features_are_listed(prepared):
    (prepared / "regions/003.npz").unlink()
    np.save(prepared / "regions/elsewhere.npy", np.ones((2, CHANNELS)))
    set_param(prepared, "data.max_skipped", 0.1)
    err = import_features()
    assert "skipped: 003.png: no features of it in regions" in err
    assert "1 feature belongs to no image in data/interim/images.csv: elsewhere" in err
    with (prepared / "metrics/skipped.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["stage"], row["image"]) == ("extract", "003.png")
    assert len(FeatureFile.open(prepared / "data/interim/features.h5").images) == 17


def test_too_many_missing_features_are_an_error(prepared):
    for number in range(3, 18):
        (prepared / f"regions/{number:03d}.npz").unlink()
    code, _, err = run_command("import-features", "regions", "--name", NAME)
    assert code == 3
    assert "15 of 18 images have no usable features" in err
    assert "and 10 more, see metrics/skipped.csv" in err
    with (prepared / "metrics/skipped.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15
    assert not (prepared / "data/interim/features.h5").exists()


def test_ids_of_which_none_is_an_image_are_shown_beside_the_name_of_one(prepared):
    np.save(prepared / "all.npy", np.ones((18, 2, CHANNELS)))
    (prepared / "ids.txt").write_text("\n".join(f"foo{number}x" for number in range(18)))
    code, _, err = run_command("import-features", "all.npy", "--ids", "ids.txt", "--name", NAME)
    assert code == 3
    assert err.startswith("error: ids.txt: no id belongs to an image: 'foo0x' is no name, path or number of one; ")
    assert "the images are named as '000.png' in data/interim/images.csv" in err


def test_images_are_prepared_before_features_are_imported(project):
    code, _, err = run_command("import-features", "regions", "--name", NAME, cwd=project)
    assert code == 3
    assert err == "error: data/interim/images.csv: no such file; run `dvc repro prepare vocab` first\n"


def test_channels_before_height_and_width_end_the_import(prepared):
    np.save(prepared / "all.npy", np.ones((18, CHANNELS, 2, 2)))
    (prepared / "ids.txt").write_text("\n".join(map(str, range(18))))
    code, _, err = run_command("import-features", "all.npy", "--ids", "ids.txt", "--name", NAME)
    assert code == 3
    assert f"error: 000.png: an array ({CHANNELS}, 2, 2) looks like (channels, height, width)" in err


def test_regions_beyond_the_limit_are_cut_and_counted(prepared):
    assert "images have more than 3 regions" in import_features("--regions", "3")
    assert FeatureFile.open(prepared / "data/interim/features.h5").regions == 3


def test_rows_of_a_feature_file_get_the_captions_of_their_images(trained_project):
    names = ["000.png", "004.png"]
    paths = [f"data/tiny/images/{name}" for name in names]
    _, expected, _ = run_command("predict", *paths, cwd=trained_project)
    code, found, err = run_command("predict", "--features", "data/interim/features.h5", *names, cwd=trained_project)
    assert code == 0, err
    assert found == expected.replace("data/tiny/images/", "")


@pytest.mark.parametrize("name", ["", "  "])
def test_features_need_a_name(tmp_path, name):
    code, _, err = run_command("import-features", "regions", "--name", name, cwd=tmp_path)
    assert code == 2
    assert "--name: is empty" in err
