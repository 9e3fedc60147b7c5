"""`captioner train`: what it prints."""

import shutil

import pytest
from support import run_stages, set_param


def test_epochs_that_are_no_better_than_the_model_they_started_from_are_a_warning(trained_project, tmp_path):
    project = shutil.copytree(trained_project, tmp_path / "project")
    shutil.copy(project / "models/captioner.safetensors", project / "start.safetensors")
    for name, value in {"epochs": 1, "lr": 1.0, "average_best": 2, "init_from": "start.safetensors"}.items():
        set_param(project, f"train.{name}", value)
    printed = run_stages(project, "train")["train"]
    assert "warning: no epoch has a better val loss than the model that training started from\n" in printed
    assert "train: the model is the mean" not in printed
    set_param(project, "train.epochs", 3)
    printed = run_stages(project, "train")["train"]
    assert ("train: the model is the mean of the 2 best" in printed) != (
        "the mean of the 2 best epochs is w" in printed
    )


@pytest.mark.filterwarnings("default::UserWarning")
def test_features_of_another_encoder_than_that_of_the_params_are_a_warning(trained_project, tmp_path):
    project = shutil.copytree(trained_project, tmp_path / "project")
    set_param(project, "train.epochs", 1)
    assert "params.encoder" not in run_stages(project, "train")["train"]
    for name, value in {"name": "resnet18", "grid": 2}.items():
        set_param(project, f"encoder.{name}", value)
    warning = (
        "warning: data/interim/features.h5 is not of the encoder in params.encoder, which differs in name, grid: run"
    )
    assert warning in run_stages(project, "train")["train"]


@pytest.mark.parametrize("self_critical_epochs", [2, 3])
def test_early_stopping_names_the_phase_that_stopped(trained_project, tmp_path, self_critical_epochs):
    project = shutil.copytree(trained_project, tmp_path / "project")
    changes = {"epochs": 9, "patience": 2, "lr": 1e-30, "scst": {"epochs": self_critical_epochs, "lr": 1e-30}}
    for name, value in changes.items():  # no step changes a weight, so no epoch is better than the first
        set_param(project, f"train.{name}", value)
    printed = run_stages(project, "train")["train"].splitlines()
    stopped = [line.split(":")[1].strip() for line in printed if "early stopping" in line]
    expected = ["early stopping after 3 of 9 cross-entropy epochs"]
    if self_critical_epochs == 3:
        expected.append("early stopping after 2 of 3 self-critical epochs")
    assert stopped == expected
    assert any(line.startswith("epoch   1/") and line.endswith(" s left") and " about " in line for line in printed)
