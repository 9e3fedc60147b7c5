"""Checkpoints: found again by the same identity only, never read when damaged, deleted when no longer needed."""

import os
import time

import pytest
import torch

from pipeline.training.checkpoint import Checkpoint

STATE = {"weights": torch.arange(3.0), "epochs": 2}


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path):
    Checkpoint(tmp_path, {"lr": 1}).save(STATE)
    state = Checkpoint(tmp_path, {"lr": 1}).load()
    assert state["epochs"] == 2
    assert torch.equal(state["weights"], STATE["weights"])


def test_a_checkpoint_of_another_identity_is_not_loaded(tmp_path):
    Checkpoint(tmp_path, {"lr": 1}).save(STATE)
    assert Checkpoint(tmp_path, {"lr": 2}).load() is None


def test_a_checkpoint_under_another_name_is_not_loaded(tmp_path):
    one, other = Checkpoint(tmp_path, {"lr": 1}), Checkpoint(tmp_path, {"lr": 2})
    one.save(STATE)
    one.path.rename(other.path)
    with pytest.warns(UserWarning, match="damaged"):
        assert other.load() is None


def test_a_damaged_checkpoint_is_not_loaded(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"lr": 1})
    checkpoint.save(STATE)
    content = checkpoint.path.read_bytes()
    place = content.index(torch.arange(3.0).numpy().tobytes())
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for damaged in (content[:100], b"", content[:-50], flipped):
        checkpoint.path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged checkpoint; training starts at epoch 1"):
            assert checkpoint.load() is None


def test_abandoned_checkpoints_are_deleted_with_another_one(tmp_path):
    for name, days in {
        "old.checkpoint": 31,
        ".old.checkpoint.0a1b": 31,
        "young.checkpoint": 29,
        ".young.checkpoint.0a1b": 29,
        "old.csv": 31,
    }.items():
        (tmp_path / name).write_bytes(b"")
        then = time.time() - days * 86_400
        os.utime(tmp_path / name, (then, then))
    checkpoint = Checkpoint(tmp_path, {"lr": 1})
    checkpoint.save(STATE)
    checkpoint.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"young.checkpoint", ".young.checkpoint.0a1b", "old.csv"}
