"""Model weights in fewer bits, for a small model file, and back in float32.

Matrices and kernels become int8 with one float32 scale per output channel (row) if they are large, else float16.
Vectors (biases, normalization) stay float32: they are small and may have a wide range. Small kernels, such as those of
depthwise convolutions, would lose more in int8 than they save; docs/results.md has the figures.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.errors import ArtefactError, DataError

_LARGE = 200_000
"""Values that a tensor in int8 has at least."""
SCALE = ".scale"
"""Suffix of the name of an int8 tensor's scales (rows,)."""


def round_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 tensors as int8 with scales, float16 or float32.

    Raises `DataError` for a value that is not finite or that float16 cannot hold.
    """
    rounded = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2:
            rounded[name] = tensor
        elif tensor.numel() < _LARGE:
            rounded[name] = tensor.half()
        else:
            scales = tensor.flatten(1).abs().amax(1) / 127
            scales = scales.where(scales != 0, 1)
            rounded[name] = (tensor / _per_row(scales, tensor)).round().to(torch.int8)
            rounded[name + SCALE] = scales
    for name, tensor in rounded.items():
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{name.removesuffix(SCALE)}: has values beyond float16's range, or that are not finite")
    return {name: tensor.contiguous() for name, tensor in rounded.items()}


def in_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model file, rounded ones as float32, without their scales.

    Raises `ArtefactError` for a tensor in int8 that has no scale per row.
    """
    restored = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            scales = tensors.get(name + SCALE)
            if scales is None or scales.shape != tensor.shape[:1]:
                raise ArtefactError(f"tensor {name} in int8 has no scale per row; train again")
            restored[name] = tensor.float() * _per_row(scales, tensor)
        elif not name.endswith(SCALE) or name.removesuffix(SCALE) not in tensors:
            restored[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return restored


def _per_row(scales: Tensor, tensor: Tensor) -> Tensor:
    """The scales (rows,) in the shape (rows, 1, ...) that multiplies `tensor`."""
    return scales.view(-1, *[1] * (tensor.dim() - 1))
