"""The device and the precision of training, without a GPU."""

import pytest
import torch

from pipeline.device import choose_device, supports_bfloat16
from pipeline.training.trainer import in_bfloat16


@pytest.mark.parametrize(("name", "current"), [("auto", []), ("cuda", []), ("cuda:1", [torch.device("cuda:1")])])
def test_a_gpu_with_a_number_becomes_the_current_one(monkeypatch, name, current):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device(name).type == "cuda"
    assert chosen == current


def test_training_computes_in_float32_on_a_gpu_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert not in_bfloat16("auto", gpu)
    assert in_bfloat16("bfloat16", gpu)
    assert in_bfloat16("auto", cpu) == supports_bfloat16(cpu)
