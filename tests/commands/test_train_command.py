"""`captioner train`: what it prints."""

import shutil

import pytest
from support import run_stages, set_param


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
