"""Pillow's resizing as matrix products, on whichever device has the pixels, bit for bit.

Pillow scales 8-bit pixels in two passes, across and then down, with weights that are whole numbers of 2**-22. The same
sums come out of a product in float32 when no term or sum has more than 24 bits: so each weight is cut into a high and a
low part, and the order of summation (which differs between devices and sizes) cannot matter.

B pictures of one shape, H x W their pixels, S side of the result.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.images import SUPPORT, Passes, passes
from pipeline.encoders.spec import Preprocessing

PRECISION = 22
"""Bits of a weight behind the point."""
LOW = 8
"""Bits of a weight's low part."""
MAX_TAPS = 250
"""More input pixels than this for one output pixel, and a sum of low parts could need more than 24 bits."""
AT_ONCE = 1 << 26
"""Pixel values that are scaled together: as float32 they take 256 MB."""


def can_resample(transform: Preprocessing, width: int, height: int) -> bool:
    """Whether a picture of this size can be scaled here: not by nearest neighbour, and not to a hundredth."""
    support = SUPPORT.get(transform.interpolation)
    if support is None:
        return False
    how = _passes(transform, width, height)
    scale = max(how.right - how.left, how.bottom - how.top) / transform.size
    return 2 * math.ceil(support * max(scale, 1.0)) + 1 <= MAX_TAPS


def resample(pictures: Tensor, transform: Preprocessing) -> Tensor:
    """What the network sees, (B, S, S, 3), of uint8 pixels (B, H, W, 3): the bytes that `images.fitted` gives."""
    height, width = pictures.shape[1:3]
    how = _passes(transform, width, height)
    kind, size, device = transform.interpolation, transform.size, str(pictures.device)
    across = _weights(width, how.left, how.right, size, kind, device)
    down = _weights(how.last - how.first, how.top, how.bottom, size, kind, device)
    needed = pictures[:, how.first : how.last, across.first : across.last].permute(0, 3, 1, 2)  # (B, 3, h, w)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # with fewer bits the products would not be exact
    try:
        scaled = []
        for some in needed.split(max(1, AT_ONCE // needed[0].numel())):
            narrow = _pass(some.to(torch.float32, memory_format=torch.contiguous_format), across.parts)  # (b, 3, h, S)
            low = _pass(narrow[:, :, down.first : down.last].transpose(2, 3), down.parts)  # (b, 3, S, S), lying down
            scaled.append(low.to(torch.uint8).permute(0, 3, 2, 1))
    finally:
        torch.set_float32_matmul_precision(precision)
    return torch.cat(scaled).contiguous()


def _passes(transform: Preprocessing, width: int, height: int) -> Passes:
    support = SUPPORT[transform.interpolation]
    return passes(width, height, size=transform.size, shorter_side=transform.shorter_side, support=support)


def _pass(pixels: Tensor, parts: Tensor) -> Tensor:
    """(..., S) whole numbers 0-255 in float32, from pixels (..., n) and weights (n, 2 S)."""
    high, low = (pixels @ parts).to(torch.int32).chunk(2, -1)
    whole = (high << LOW) + low
    return ((whole + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255).float()


class _Weights(NamedTuple):
    """Of one pass, for the input pixels from `first` to `last`; no other one is needed."""

    parts: Tensor
    """(last - first, 2 S) in float32: the high parts of all weights, and their low parts."""
    first: int
    last: int


@lru_cache(maxsize=64)
def _weights(length: int, low: float, high: float, size: int, kind: str, device: str) -> _Weights:
    """From the part `low` to `high` of so many pixels to `size` ones, in Pillow's own steps."""
    start_at, end_at = np.float32(low), np.float32(high)  # as which Pillow gets them
    scale = float(end_at - start_at) / size
    stretch = max(scale, 1.0)
    reach = SUPPORT[kind] * stretch
    centre = float(start_at) + (np.arange(size) + 0.5) * scale  # (S,)
    start = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    tap = start[:, None] + np.arange(int((end - start).max()))  # (S, T)
    inside = tap < end[:, None]
    weights = np.where(inside, _kernel((tap - centre[:, None] + 0.5) * (1.0 / stretch), kind), 0.0)
    whole = np.cumsum(weights, axis=1)[:, -1:]  # added up one after another: the order decides on the last bit
    exact = np.divide(weights, whole, out=weights, where=whole != 0) * (1 << PRECISION)
    first, last = int(start.min()), int(end.max())
    table = np.zeros((last - first, size), np.int64)
    place = np.broadcast_to(np.arange(size)[:, None], tap.shape)
    table[tap[inside] - first, place[inside]] = np.trunc(exact + np.where(exact < 0, -0.5, 0.5))[inside].astype(
        np.int64
    )
    parts = torch.from_numpy(np.concatenate([table >> LOW, table & ((1 << LOW) - 1)], 1).astype(np.float32))
    if device.startswith("cuda") and torch.cuda.is_available():
        parts = parts.pin_memory()  # so that the copy waits for nothing
    return _Weights(parts.to(device, non_blocking=device.startswith("cuda")), first, last)


def _kernel(distance: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """The filter's height at a distance, in pixels."""
    distance = np.abs(distance)
    if kind == "bilinear":
        return np.maximum(1.0 - distance, 0.0)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
