"""Pillow's resizing as matrix products, on whichever device has the pixels, bit for bit.

Pillow scales 8-bit pixels in two passes, across and then down, with weights that are whole numbers of 2**-22. The same
sums come out of a product in float32 when no term or sum has more than 24 bits: so each weight is cut into a high and a
low part, and the order of summation (which differs between devices and sizes) cannot matter.

B pictures of one shape, H x W their pixels, S side of the result, T input pixels that one output pixel is made from.
"""

import math
from functools import lru_cache, reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.features.images import SUPPORT, Passes, passes
from pipeline.features.spec import Transform

PRECISION = 22
"""Bits of a weight behind the point."""
LOW = 8
"""Bits of a weight's low part."""
MAX_TAPS = 250
"""More input pixels than this for one output pixel, and a sum of low parts could need more than 24 bits."""


def can_resample(transform: Transform, width: int, height: int) -> bool:
    """Whether a picture of this size can be scaled here: not by nearest neighbour, and not to a hundredth."""
    support = SUPPORT.get(transform.interpolation)
    if support is None:
        return False
    how = _passes(transform, width, height)
    scale = max(how.right - how.left, how.bottom - how.top) / transform.size
    return 2 * math.ceil(support * max(scale, 1.0)) + 1 <= MAX_TAPS


def resample(pictures: Tensor, transform: Transform) -> Tensor:
    """What the network sees, (B, S, S, 3), of uint8 pixels (B, H, W, 3): the bytes that `images.fitted` gives."""
    height, width = pictures.shape[1:3]
    how = _passes(transform, width, height)
    kind, size, device = transform.interpolation, transform.size, str(pictures.device)
    across = _weights(width, how.left, how.right, size, kind, device)
    down = _weights(how.last - how.first, how.top, how.bottom, size, kind, device)
    rows = pictures[:, how.first : how.last, across.first : across.last].permute(0, 3, 1, 2)  # (B, 3, h, w)
    narrow = _sums(rows.float().unsqueeze(2), across.parts.mT)  # (B, 3, h, S)
    seen = _sums(down.parts, narrow[:, :, down.first : down.last].unsqueeze(2))  # (B, 3, S, S)
    return seen.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _passes(transform: Transform, width: int, height: int) -> Passes:
    support = SUPPORT[transform.interpolation]
    return passes(width, height, size=transform.size, shorter_side=transform.shorter_side, support=support)


def _sums(left: Tensor, right: Tensor) -> Tensor:
    """One pass: products of pixels and weights, whose parts are in dimension -3 of either, rounded to 0-255."""
    parts = left @ right
    high, low = parts[..., 0, :, :], parts[..., 1, :, :]
    whole = (high.to(torch.int32) << LOW) + low.to(torch.int32)
    return ((whole + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255).float()


class _Weights(NamedTuple):
    """Of one pass, for the input pixels from `first` to `last`; no other one is needed."""

    parts: Tensor
    """(2, S, last - first): high and low parts, in float32."""
    first: int
    last: int


@lru_cache(maxsize=512)
def _weights(length: int, low: float, high: float, size: int, kind: str, device: str) -> _Weights:
    """From the part `low` to `high` of so many pixels to `size` ones, in Pillow's own steps."""
    start_at, end_at = np.float32(low), np.float32(high)  # as which Pillow gets them
    scale = float(end_at - start_at) / size
    stretch = max(scale, 1.0)
    reach = SUPPORT[kind] * stretch
    table = np.zeros((size, length), np.int64)
    first, last = length, 0
    for place in range(size):
        centre = float(start_at) + (place + 0.5) * scale
        start, end = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        weights = [_kernel((tap - centre + 0.5) * (1.0 / stretch), kind) for tap in range(start, end)]
        whole = reduce(add, weights, 0.0)  # one after another, which `sum` no longer does
        for tap, weight in enumerate(weights, start):
            exact = (weight / whole if whole else weight) * (1 << PRECISION)
            table[place, tap] = int(exact - 0.5) if exact < 0 else int(exact + 0.5)
        first, last = min(first, start), max(last, end)
    needed = torch.from_numpy(table[:, first:last])
    parts = torch.stack([needed >> LOW, needed & ((1 << LOW) - 1)]).float()
    return _Weights(parts.to(device), first, last)


def _kernel(distance: float, kind: str) -> float:
    """The filter's height at a distance, in pixels."""
    distance = abs(distance)
    if kind == "bilinear":
        return max(1.0 - distance, 0.0)
    if distance < 1.0:
        return (1.5 * distance - 2.5) * distance * distance + 1
    if distance < 2.0:
        return (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return 0.0
