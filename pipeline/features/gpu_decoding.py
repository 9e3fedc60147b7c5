"""JPEG decoding and resizing on a GPU, with NVIDIA's nvImageCodec: `encoder.jpeg_decoder: nvimgcodec`.

    files → processes: read, check → shared memory → GPU: decode, resize → network

Decoding is most of the work of extraction on a GPU. In `benchmarks/gpu.py` pixels differ from Pillow's by at most 3,
and features have a cosine above 0.999999. The processes that decode images otherwise read the files here. They decode
with Pillow what nvImageCodec may decode differently (`encoders/jpeg_headers.py`), what it refuses, and what may be
damaged.

The same code runs on a CPU, given a decoder; the tests use that.

B images of a batch, S input side, H and W height and width of an image.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.images import crop_box
from pipeline.encoders.jpeg_headers import MAX_PIXELS, MIN_SIDE, padded
from pipeline.encoders.nvimgcodec import make_nvimgcodec_decoder
from pipeline.encoders.spec import Preprocessing

CACHED_MATRICES = 256
ONE = 1 << 15
"""The sum of a pixel's weights. Sums of weighted pixels stay below 2^24, up to which float32 holds whole numbers."""
CORNER = MIN_SIDE
"""Pixels per side of the corner in which missing data show, less than a block of a JPEG."""


class Jpeg(NamedTuple):
    """A JPEG file in memory."""

    content: NDArray[np.uint8]
    """(bytes,)"""
    height: int
    width: int


def resampling_matrix(length: int, start: float, stop: float, size: int, interpolation: str) -> NDArray[np.float32]:
    """The matrix (size, length) that scales the part from `start` to `stop` of `length` pixels to `size` pixels.

    The weights are Pillow's: a triangle (bilinear) or a cubic with a = -0.5 (bicubic), as wide as a pixel of the result
    where that is the larger one, over the pixels that lie in the image. They are whole numbers that sum to about `ONE`:
    float32 adds them up without rounding, so that a result does not depend on the order, and neither on the batch.
    """
    scale = (stop - start) / size
    width = max(scale, 1.0)
    radius = (1.0 if interpolation == "bilinear" else 2.0) * width
    centers = start + (np.arange(size) + 0.5) * scale  # (size,)
    first = np.maximum(centers - radius + 0.5, 0).astype(int)
    last = np.minimum(centers + radius + 0.5, length).astype(int)
    pixels = first[:, None] + np.arange((last - first).max())  # (size, pixels that one of the result depends on)
    distance = np.abs(pixels + 0.5 - centers[:, None]) / width
    if interpolation == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    inside = pixels < last[:, None]
    weights *= inside
    rows = np.broadcast_to(np.arange(size)[:, None], pixels.shape)
    matrix = np.zeros((size, length), np.float32)
    matrix[rows[inside], pixels[inside]] = (weights / weights.sum(1, keepdims=True) * ONE).round()[inside]
    return matrix


class JpegDecoder:
    """Decodes JPEGs on a device and resizes them there to the network's input."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._preprocessing, self._device = preprocessing, device
        self._decoder = make_nvimgcodec_decoder(device)
        self._matrix = lru_cache(CACHED_MATRICES)(self._make_matrix)

    @torch.inference_mode()
    def decode(self, jpegs: Sequence[Jpeg]) -> list[Tensor | None]:
        """The network's input (S, S, 3) of each JPEG; None for one that Pillow has to decode."""
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        found: list[Tensor | None] = []
        for group in _groups(jpegs):
            decoded = self._decoder.decode([jpeg.content for jpeg in group], cuda_stream=stream)
            images = [
                None if image is None else torch.utils.dlpack.from_dlpack(image.to_dlpack(stream))
                for image, _ in zip(decoded, group, strict=True)
            ]
            resized = iter(self.resize([image for image in images if image is not None]))
            found += [None if image is None else next(resized) for image in images]
        return found

    @torch.inference_mode()
    def resize(self, images: Sequence[Tensor]) -> list[Tensor | None]:
        """Crop and resize images (H, W, 3) to the network's input, as `preprocess_image` does.

        None for an image whose last pixels are all equal, as where data are missing from a file.
        """
        if not images:
            return []
        pixels, corners = self._resize_together(images)
        flat = (corners == corners[:, -1:]).all(2).all(1).tolist()
        return [None if is_flat else image for is_flat, image in zip(flat, pixels.unbind(), strict=True)]

    def _resize_together(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The network's inputs (B, S, S, 3) and the last pixels (B, `CORNER`^2, 3) of images (H, W, 3)."""
        count, size = len(images), self._preprocessing.size
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        if len(set(shapes)) == 1:  # most photographs have one of two shapes
            (height, width), canvas = shapes[0], torch.stack(list(images))
        else:
            height, width = (padded(max(sides)) for sides in zip(*shapes, strict=True))
            canvas = images[0].new_zeros(count, height, width, 3)
            for place, (image, (h, w)) in enumerate(zip(images, shapes, strict=True)):
                canvas[place, height - h :, width - w :] = image
        boxes = [crop_box(self._preprocessing, w, h) for h, w in shapes]
        horizontal = [self._matrix(w, width, box[0], box[2]) for (_, w), box in zip(shapes, boxes, strict=True)]
        vertical = [self._matrix(h, height, box[1], box[3]) for (h, _), box in zip(shapes, boxes, strict=True)]
        columns = canvas.transpose(1, 2).reshape(count, width, height * 3).float()
        narrow = _scale_down(torch.stack(horizontal) @ columns).view(count, size, height, 3)  # (B, S, H, 3)
        rows = narrow.transpose(1, 2).reshape(count, height, size * 3)
        pixels = _scale_down(torch.stack(vertical) @ rows).view(count, size, size, 3).to(torch.uint8)
        return pixels, canvas[:, -CORNER:, -CORNER:].flatten(1, 2)

    def _make_matrix(self, length: int, padded_to: int, start: float, stop: float) -> Tensor:
        """Of shape (S, padded_to), for an image at the end of the padding."""
        preprocessing = self._preprocessing
        matrix = resampling_matrix(length, start, stop, preprocessing.size, preprocessing.interpolation)
        return torch.from_numpy(np.pad(matrix, ((0, 0), (padded_to - length, 0)))).to(self._device)


def _groups(jpegs: Sequence[Jpeg]) -> Iterator[Sequence[Jpeg]]:
    """Consecutive JPEGs that, padded to the same size, have at most `MAX_PIXELS` pixels."""
    group: list[Jpeg] = []
    height = width = 0
    for jpeg in jpegs:
        height, width = max(height, jpeg.height), max(width, jpeg.width)
        if group and (len(group) + 1) * padded(height) * padded(width) > MAX_PIXELS:
            yield group
            group, height, width = [], jpeg.height, jpeg.width
        group.append(jpeg)
    if group:
        yield group


def _scale_down(values: Tensor) -> Tensor:
    """Divide by `ONE` and round to whole numbers from 0 to 255, halves upwards as Pillow does. In place."""
    return values.add_(ONE / 2).mul_(1 / ONE).floor_().clamp_(0, 255)
