"""Launches of Triton kernels."""

from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, programs: tuple[int, ...], *tensors: Tensor | int, **constants: Any) -> None:
    """Run `programs` of a kernel on the GPU of the first tensor, which need not be the current one.

    A multiplication and an addition become one instruction: said here, because the default differs between versions of
    Triton, and results would differ in their last bits.
    """
    with torch.cuda.device_of(tensors[0]):
        kernel[programs](*tensors, enable_fp_fusion=True, **constants)
