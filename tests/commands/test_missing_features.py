"""Images without features are counted and named by train and score."""

import shutil

from support import run_command, set_param

from pipeline import paths


def test_train_and_score_name_the_images_without_features(trained_project, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(trained_project, project)
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
