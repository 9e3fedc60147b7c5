"""JPEG decoding and resizing on a GPU, with NVIDIA's nvImageCodec: `encoder.jpeg_decoder: nvimgcodec`.

    files → threads: read, check → GPU: decode, resize → network

Decoding is most of the work of extraction on a GPU: 16 cores decode 3,000 photographs per second, where an H200 decodes
20,000. Pixels differ from Pillow's by at most 3, and features have a cosine above 0.999999 (`benchmarks/gpu.py`).
What nvImageCodec might decode differently, and what it refuses, is decoded by Pillow: see `is_plain_jpeg`.

The same code runs on a CPU, given a decoder; the tests use that.

B images of a batch, S input side, H and W height and width of an image.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.encoder import GPU_BATCH, Encoder
from pipeline.encoders.images import ImageError, crop_box, has_text_line_ends
from pipeline.encoders.nvimgcodec import make_nvimgcodec_decoder
from pipeline.encoders.spec import Preprocessing
from pipeline.features.decode_pool import Reasons
from pipeline.features.image_batches import DecodedBatch, ImageFile, map_ahead

READERS = 4
"""Threads that read and check files."""
BATCHES_AHEAD = 2
"""Decoded batches that wait for the network."""
MAX_PIXELS = 16_000_000
"""Larger images are decoded by Pillow, one at a time, since a whole batch is in the GPU's memory."""
GROUP_PIXELS = 64_000_000
"""Images of at most so many pixels are resized together."""
CACHED_MATRICES = 256
ONE = 1 << 15
"""The sum of a pixel's weights. Sums of weighted pixels stay below 2^24, up to which float32 holds whole numbers."""
_EXIF, _SOF0, _SOF2, _APP1, _APP14 = b"Exif\0\0", 0xC0, 0xC2, 0xE1, 0xEE
_SAMPLING = {0x11, 0x21, 0x22}
"""Luma samples per chroma sample, 4:4:4, 4:2:2 and 4:2:0, as a frame header writes them."""


def is_plain_jpeg(content: bytes) -> bool:
    """Whether nvImageCodec decodes an image file as Pillow does.

    It must be a complete upright JPEG of at most `MAX_PIXELS` pixels, baseline or progressive, of 8-bit YCbCr in the
    usual kinds of subsampling.
    """
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9")) or has_text_line_ends(content):
        return False
    place = 2
    while content[place : place + 1] == b"\xff":
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        segment = content[place + 4 : place + 2 + length]
        if marker in (_SOF0, _SOF2):
            return _is_plain_frame(segment)
        is_exif = marker == _APP1 and segment.startswith(_EXIF)
        is_other_color = marker == _APP14 and segment.startswith(b"Adobe") and segment[11:12] != b"\x01"
        is_header = 0xC0 < marker < 0xC4 or marker in (0xC4, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF
        if not is_header or is_other_color or (is_exif and not _is_upright(segment)):
            return False
        place += 2 + length
    return False


def _is_plain_frame(segment: bytes) -> bool:
    if len(segment) < 15 or segment[0] != 8 or segment[5] != 3:  # bits per sample, components
        return False
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    components, samplings = segment[6:15:3], segment[7:15:3]
    return (
        0 < height * width <= MAX_PIXELS
        and components == bytes([1, 2, 3])
        and samplings[0] in _SAMPLING
        and samplings[1:] == bytes([0x11, 0x11])
    )


def _is_upright(segment: bytes) -> bool:
    """Whether no byte pattern in Exif data can be an orientation other than 1: tag 0x0112, type 3, count 1."""
    order = "little" if segment[6:8] == b"II" else "big"
    entry = b"".join(number.to_bytes(size, order) for number, size in ((0x0112, 2), (3, 2), (1, 4)))  # type: ignore[arg-type]
    place = segment.find(entry)
    return place < 0 or int.from_bytes(segment[place + 8 : place + 10], order) in (0, 1)  # type: ignore[arg-type]


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
    first = np.trunc(np.maximum(centers - radius + 0.5, 0))
    last = np.trunc(np.minimum(centers + radius + 0.5, length))
    pixels = np.arange(length)
    distance = np.abs(pixels + 0.5 - centers[:, None]) / width  # (size, length)
    if interpolation == "bilinear":
        weights = np.maximum(1 - distance, 0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    weights *= (pixels >= first[:, None]) & (pixels < last[:, None])
    return np.asarray((weights / weights.sum(1, keepdims=True) * ONE).round(), np.float32)


class JpegDecoder:
    """Decodes JPEGs on a device and resizes them there to the network's input."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._preprocessing, self._device = preprocessing, device
        self._decoder = make_nvimgcodec_decoder(device)
        self._matrix = lru_cache(CACHED_MATRICES)(self._make_matrix)

    @torch.inference_mode()
    def decode(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        """The network's input (S, S, 3) of each JPEG; None for one that Pillow has to decode."""
        if not contents:
            return []
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        decoded = self._decoder.decode(list(contents), cuda_stream=stream)
        images = [None if image is None else torch.utils.dlpack.from_dlpack(image) for image in decoded]
        usable = [image for image in images if image is not None and image.shape[2:] == (3,)]
        resized = iter(self.resize(usable))
        return [next(resized) if image is not None and image.shape[2:] == (3,) else None for image in images]

    @torch.inference_mode()
    def resize(self, images: Sequence[Tensor]) -> list[Tensor | None]:
        """Crop and resize images (H, W, 3) to the network's input, as `preprocess_image` does.

        None for an image whose last pixel is gray, as where pixels are missing from a file.
        """
        found: list[Tensor | None] = []
        for group in _groups(images):
            pixels, last = self._resize_together(group)
            gray = ((last - 127) < 2).all(1).tolist()
            found += [None if is_gray else image for is_gray, image in zip(gray, pixels.unbind(), strict=True)]
        return found

    def _resize_together(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The network's inputs (B, S, S, 3) and the last pixels (B, 3) of images (H, W, 3)."""
        count, size = len(images), self._preprocessing.size
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        if len(set(shapes)) == 1:  # most photographs have one of two shapes
            (height, width), canvas = shapes[0], torch.stack(list(images))
        else:
            height, width = (_padded(max(sides)) for sides in zip(*shapes, strict=True))
            canvas = images[0].new_zeros(count, height, width, 3)
            for place, (image, (h, w)) in enumerate(zip(images, shapes, strict=True)):
                canvas[place, :h, :w] = image
        boxes = [crop_box(self._preprocessing, w, h) for h, w in shapes]
        horizontal = [self._matrix(w, width, box[0], box[2]) for (_, w), box in zip(shapes, boxes, strict=True)]
        vertical = [self._matrix(h, height, box[1], box[3]) for (h, _), box in zip(shapes, boxes, strict=True)]
        columns = canvas.transpose(1, 2).float().reshape(count, width, height * 3)
        narrow = _scale_down(torch.stack(horizontal) @ columns).view(count, size, height, 3)  # (B, S, H, 3)
        rows = narrow.transpose(1, 2).reshape(count, height, size * 3)
        pixels = _scale_down(torch.stack(vertical) @ rows).view(count, size, size, 3).to(torch.uint8)
        ends = torch.tensor(shapes, device=self._device) - 1
        return pixels, canvas[torch.arange(count, device=self._device), ends[:, 0], ends[:, 1]]

    def _make_matrix(self, length: int, padded: int, start: float, stop: float) -> Tensor:
        """Of shape (S, padded)."""
        preprocessing = self._preprocessing
        matrix = resampling_matrix(length, start, stop, preprocessing.size, preprocessing.interpolation)
        return torch.from_numpy(np.pad(matrix, ((0, 0), (0, padded - length)))).to(self._device)


def _groups(images: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Consecutive images that, padded to the same size, have at most `GROUP_PIXELS` pixels or are one."""
    group: list[Tensor] = []
    height = width = 0
    for image in images:
        height, width = max(height, image.shape[0]), max(width, image.shape[1])
        if group and (len(group) + 1) * _padded(height) * _padded(width) > GROUP_PIXELS:
            yield group
            group, height, width = [], image.shape[0], image.shape[1]
        group.append(image)
    if group:
        yield group


def _padded(length: int) -> int:
    return -(-length // 128) * 128


def _scale_down(values: Tensor) -> Tensor:
    """Divide by `ONE` and round to whole numbers from 0 to 255, halves upwards as Pillow does. In place."""
    return values.add_(ONE / 2).mul_(1 / ONE).floor_().clamp_(0, 255)


Source = bytes | NDArray[np.uint8] | str
"""A JPEG for nvImageCodec, pixels (S, S, 3) that Pillow decoded, or the reason why an image cannot be used."""


def decoded_on_gpu(images: Sequence[ImageFile], encoder: Encoder, workers: int) -> Generator[DecodedBatch, None, None]:
    """Decode `images` on the encoder's device, in order."""
    preprocessing, device = encoder.spec.preprocessing, encoder.device
    decoder = JpegDecoder(preprocessing, device)
    # Of high priority: its small kernels would else wait for those of the network, one after the other.
    stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
    can_resize = preprocessing.interpolation in ("bilinear", "bicubic")

    def read(start: int) -> list[tuple[ImageFile, Source]]:
        return [(image, _source(image, preprocessing, can_resize)) for image in images[start : start + GPU_BATCH]]

    def decode(sources: list[tuple[ImageFile, Source]]) -> tuple[DecodedBatch, torch.cuda.Event | None]:
        with torch.inference_mode(), torch.cuda.stream(stream):
            batch = _decode(sources, decoder, preprocessing, device)
            finished = torch.cuda.Event() if stream else None
            if finished:
                finished.record(stream)
        return batch, finished

    threads = min(READERS, workers)
    sources = map_ahead(read, range(0, len(images), GPU_BATCH), workers=threads, ahead=threads)
    with closing(sources), closing(map_ahead(decode, sources, workers=1, ahead=BATCHES_AHEAD)) as batches:
        for batch, finished in batches:
            if finished:
                compute_stream = torch.cuda.current_stream(device)
                compute_stream.wait_event(finished)
                batch.pixels.record_stream(compute_stream)
            yield batch


def _source(image: ImageFile, preprocessing: Preprocessing, can_resize: bool) -> Source:
    try:
        content = image.content()
        return content if can_resize and is_plain_jpeg(content) else image.pixels(preprocessing)
    except ImageError as error:
        return str(error)


def _decode(
    sources: list[tuple[ImageFile, Source]], decoder: JpegDecoder, preprocessing: Preprocessing, device: torch.device
) -> DecodedBatch:
    decoded = iter(decoder.decode([source for _, source in sources if isinstance(source, bytes)]))
    blank = torch.zeros(preprocessing.size, preprocessing.size, 3, dtype=torch.uint8, device=device)
    pixels = [blank] * GPU_BATCH
    reasons: Reasons = [None] * len(sources)
    for place, (image, source) in enumerate(sources):
        found: Tensor | Source | None = next(decoded) if isinstance(source, bytes) else source
        if found is None:
            found = _source(image, preprocessing, can_resize=False)
        if isinstance(found, str):
            reasons[place] = found
        else:
            pixels[place] = found if isinstance(found, Tensor) else torch.tensor(found, device=device)
    return DecodedBatch([image for image, _ in sources], reasons, torch.stack(pixels))
