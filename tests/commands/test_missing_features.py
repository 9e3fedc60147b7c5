"""Images without features are counted and named by train and score."""

import shutil

import pytest
from support import run_command, set_param

from pipeline import paths


@pytest.fixture
def project(trained_project, tmp_path):
    return shutil.copytree(trained_project, tmp_path / "project")


def test_train_and_score_name_the_images_without_features(project):
    set_param(project, "train.epochs", 1)
    with (project / paths.CAPTIONS).open("a") as file:
        for split in ("train", "val", "test"):
            file.writelines(f"{split}-{number}.png,a red square,{split}\n" for number in range(7))
    code, _, message = run_command("train", cwd=project)
    assert code == 0, message
    for split in ("train", "val"):
        assert (
            f"warning: 7 images of the {split} split have no features and are left out: {split}-0.png, {split}-1.png, "
            f"{split}-2.png, {split}-3.png, {split}-4.png and 2 more; metrics/skipped.csv lists"
        ) in message
    code, _, message = run_command("score", cwd=project)
    assert code == 0, message
    assert "warning: 7 images of the test split have no features and are left out: test-0.png, " in message


def test_score_names_the_list_of_skipped_images_where_a_split_has_no_features(project):
    (project / paths.CAPTIONS).write_text("image,caption,split\nx.png,a red square,test\n")
    code, _, message = run_command("score", cwd=project)
    assert code == 3
    assert "no image of the test split has features; metrics/skipped.csv lists those that cannot be decoded" in message


def test_score_says_that_its_split_has_no_images(project):
    captions = project / paths.CAPTIONS
    captions.write_text(captions.read_text().replace(",test\n", ",train\n"))
    code, _, message = run_command("score", cwd=project)
    assert code == 3
    assert "no image is in the test split; add images and run `dvc repro`, or set params.score.split" in message
