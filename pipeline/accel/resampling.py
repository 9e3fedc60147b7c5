"""Pillow's image resizing as matrix products on any device, with byte-identical results.

Pillow resizes 8-bit images in two passes, horizontally and then vertically, with fixed-point weights of 22 fractional
bits. A float32 matrix product computes the same sums if no term or sum has more than 24 bits. Each weight is therefore
split into a high and a low part; the order of summation, which differs between devices and sizes, cannot matter then.

The plain twin is `encoders.images.preprocess_image`.

B images of one shape, H x W their size, S side of the result.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.images import FILTER_SUPPORT, resize_passes
from pipeline.encoders.spec import Preprocessing

WEIGHT_BITS = 22
"""Fractional bits of a weight, as in Pillow."""
LOW_BITS = 8
"""Bits of a weight's low part."""
MAX_TAPS = 250
"""Input pixels per output pixel above which a sum of low parts could need more than 24 bits."""
MAX_VALUES = 1 << 26
"""Pixel values resized at a time; they take 256 MB in float32."""


def can_resample(preprocessing: Preprocessing, width: int, height: int) -> bool:
    """Whether `resample` handles images of this size: not with nearest-neighbor filters or extreme downscaling."""
    support = FILTER_SUPPORT.get(preprocessing.interpolation)
    if support is None:
        return False
    passes = resize_passes(preprocessing, width, height)
    scale = max(passes.right - passes.left, passes.bottom - passes.top) / preprocessing.size
    return 2 * math.ceil(support * max(scale, 1.0)) + 1 <= MAX_TAPS


def resample(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Crop and resize uint8 images (B, H, W, 3) to (B, S, S, 3), with the bytes that `preprocess_image` returns."""
    height, width = images.shape[1:3]
    passes = resize_passes(preprocessing, width, height)
    interpolation, size, device = preprocessing.interpolation, preprocessing.size, str(images.device)
    across = _weights(width, passes.left, passes.right, size, interpolation, device)
    down = _weights(passes.last_row - passes.first_row, passes.top, passes.bottom, size, interpolation, device)
    needed = images[:, passes.first_row : passes.last_row, across.first : across.last]
    needed = needed.permute(0, 3, 1, 2)  # (B, 3, h, w)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 products would not be exact
    try:
        resized = []
        for part in needed.split(max(1, MAX_VALUES // needed[0].numel())):
            pixels = part.to(torch.float32, memory_format=torch.contiguous_format)
            narrow = _resize_last_axis(pixels, across.parts)  # (b, 3, h, S)
            small = _resize_last_axis(narrow[:, :, down.first : down.last].transpose(2, 3), down.parts)
            resized.append(small.to(torch.uint8).permute(0, 3, 2, 1))  # (b, 3, S, S), transposed, to (b, S, S, 3)
    finally:
        torch.set_float32_matmul_precision(precision)
    return torch.cat(resized).contiguous()


def _resize_last_axis(pixels: Tensor, parts: Tensor) -> Tensor:
    """Return integers 0 to 255 (..., S) in float32 from pixels (..., n) and weights (n, 2 S)."""
    high, low = (pixels @ parts).to(torch.int32).chunk(2, -1)
    total = (high << LOW_BITS) + low
    return ((total + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255).float()


class _Weights(NamedTuple):
    """The weights of one pass, for input pixels `first` to `last`; the others have no weight."""

    parts: Tensor
    """(last - first, 2 S) in float32: the high parts of all weights, then their low parts."""
    first: int
    last: int


@lru_cache(maxsize=64)
def _weights(length: int, low: float, high: float, size: int, interpolation: str, device: str) -> _Weights:
    """Weights that resize pixels `low` to `high` of `length` to `size`, computed in Pillow's own steps."""
    start_at, end_at = np.float32(low), np.float32(high)  # Pillow's data type of a box
    scale = float(end_at - start_at) / size
    stretch = max(scale, 1.0)
    reach = FILTER_SUPPORT[interpolation] * stretch
    center = float(start_at) + (np.arange(size) + 0.5) * scale  # (S,)
    start = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((center + reach + 0.5).astype(np.int64), length)
    tap = start[:, None] + np.arange(int((end - start).max()))  # (S, T)
    inside = tap < end[:, None]
    weights = np.where(inside, _filter((tap - center[:, None] + 0.5) * (1.0 / stretch), interpolation), 0.0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # summed in order, which decides the last bit
    exact = np.divide(weights, total, out=weights, where=total != 0) * (1 << WEIGHT_BITS)
    first, last = int(start.min()), int(end.max())
    table = np.zeros((last - first, size), np.int64)
    column = np.broadcast_to(np.arange(size)[:, None], tap.shape)
    rounded = np.trunc(exact + np.where(exact < 0, -0.5, 0.5)).astype(np.int64)
    table[tap[inside] - first, column[inside]] = rounded[inside]
    split = np.concatenate([table >> LOW_BITS, table & ((1 << LOW_BITS) - 1)], 1)
    parts = torch.from_numpy(split.astype(np.float32))
    if device.startswith("cuda") and torch.cuda.is_available():
        parts = parts.pin_memory()  # for an asynchronous copy
    return _Weights(parts.to(device, non_blocking=device.startswith("cuda")), first, last)


def _filter(distance: NDArray[np.float64], interpolation: str) -> NDArray[np.float64]:
    """The filter's value at a distance in pixels."""
    distance = np.abs(distance)
    if interpolation == "bilinear":
        return np.maximum(1.0 - distance, 0.0)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
