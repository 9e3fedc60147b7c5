"""Rounded weights: large matrices in int8, small ones in float16, vectors as they are."""

import pytest
import torch

from pipeline.errors import ArtefactError, DataError
from pipeline.weight_rounding import in_float32, round_weights


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(1)
    sizes = {"matrix": (500, 400), "kernel": (400, 64, 3, 3), "small": (30, 40), "bias": (500,)}
    found = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    found["matrix"][3] = 0
    found["matrix"][4] *= 1e-4
    return found


def test_each_row_of_a_large_matrix_is_off_by_at_most_half_a_step(tensors):
    rounded = round_weights(tensors)
    restored = in_float32(rounded)
    for name in ("matrix", "kernel"):
        assert rounded[name].dtype == torch.int8
        half_step = tensors[name].flatten(1).abs().amax(1, keepdim=True) / 254
        assert ((restored[name] - tensors[name]).flatten(1).abs() <= half_step * 1.001).all()
    assert restored.keys() == tensors.keys()
    assert {tensor.dtype for tensor in restored.values()} == {torch.float32}


def test_small_matrices_are_in_float16_and_vectors_in_float32(tensors):
    rounded = round_weights(tensors)
    assert torch.equal(rounded["small"], tensors["small"].half())
    assert torch.equal(rounded["bias"], tensors["bias"])


@pytest.mark.parametrize(("name", "value"), [("small", 1e6), ("matrix", float("inf")), ("matrix", float("nan"))])
def test_values_that_cannot_be_rounded_are_refused(tensors, name, value):
    tensors[name][0, 0] = value
    with pytest.raises(DataError, match=f"{name}: has values beyond float16's range, or that are not finite"):
        round_weights(tensors)


def test_a_tensor_without_its_scales_is_refused(tensors):
    rounded = round_weights(tensors)
    for scales in (None, torch.ones(3)):
        damaged = {name: tensor for name, tensor in rounded.items() if name != "matrix.scale"}
        damaged |= {} if scales is None else {"matrix.scale": scales}
        with pytest.raises(ArtefactError, match="tensor matrix in int8 has no scale per row"):
            in_float32(damaged)
