"""JPEG decoding and resizing on a GPU, with NVIDIA's nvImageCodec: `encoder.jpeg_decoder: nvimgcodec`.

    files → threads: read, check → GPU: decode, resize → network

Decoding is most of the work of extraction on a GPU: of JPEGs of 500 x 375 pixels, 16 cores decode 3,000 per second, an
H200 20,000. In `benchmarks/gpu.py` pixels differ from Pillow's by at most 3, and features have a cosine above 0.999999.
What nvImageCodec may decode differently, and what it refuses, is decoded by Pillow, in a few threads: see `jpeg_size`.

The same code runs on a CPU, given a decoder; the tests use that.

B images of a batch, S input side, H and W height and width of an image.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.encoder import GPU_BATCH, Encoder
from pipeline.encoders.images import ImageError, crop_box, decode_pixels, has_text_line_ends
from pipeline.encoders.nvimgcodec import make_nvimgcodec_decoder
from pipeline.encoders.spec import Preprocessing
from pipeline.features.image_batches import DecodedBatch, ImageFile, map_ahead

READERS = 4
"""Threads that read and check files."""
CHUNK = 16
"""Images that a thread reads at a time."""
BATCHES_AHEAD = 2
"""Decoded batches that wait for the network."""
MAX_PIXELS = 64_000_000
"""Pixels that are decoded and resized together, about 1.5 GB in the GPU's memory. Pillow decodes larger images."""
CACHED_MATRICES = 256
ONE = 1 << 15
"""The sum of a pixel's weights. Sums of weighted pixels stay below 2^24, up to which float32 holds whole numbers."""
_SOF0, _SOF2, _DHT, _SOS, _DQT, _DRI, _APP1, _APP14, _COM = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xEE, 0xFE
"""Markers of JPEG: frame headers, tables, the start of the data, metadata."""
_SAMPLING = {0x11, 0x21, 0x22}
"""Luma samples per chroma sample, 4:4:4, 4:2:2 and 4:2:0, as a frame header writes them."""
_ROTATED = re.compile(
    rb"\x01\x12(?=\0[\x01-\x0d]\0\0)(?!\0\x03\0\0\0\x01\0[\0\x01])"  # Exif, big-endian: tag, type, count, value
    rb"|\x12\x01(?=[\x01-\x0d]\0..\0\0)(?!\x03\0\x01\0\0\0[\0\x01]\0)"  # Exif, little-endian
    rb"|tiff:Orientation(?!=\"1|>1)",  # XMP
    re.DOTALL,
)
"""An orientation other than upright in an APP1 segment."""


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that nvImageCodec decodes as Pillow does; None for every other file.

    It has a start and an end, is upright and of at most `MAX_PIXELS` pixels, baseline or progressive, of 8-bit YCbCr in
    the usual kinds of subsampling. Damage between start and end is not looked for.
    """
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9")) or has_text_line_ends(content):
        return None
    place, size = 2, None
    while content[place : place + 1] == b"\xff":
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        segment = content[place + 4 : place + 2 + length]
        if marker == _SOS:
            return size
        if marker in (_SOF0, _SOF2) and size is None:
            size = _frame_size(segment)
            if size is None:
                return None
        elif not (marker in (_DHT, _DQT, _DRI, _COM) or 0xE0 <= marker <= 0xEF):
            return None
        is_other_color = marker == _APP14 and segment.startswith(b"Adobe") and segment[11:12] != b"\x01"
        if is_other_color or (marker == _APP1 and _ROTATED.search(segment)):
            return None
        place += 2 + length
    return None


def _frame_size(segment: bytes) -> tuple[int, int] | None:
    if len(segment) < 15 or segment[0] != 8 or segment[5] != 3:  # bits per sample, components
        return None
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    components, samplings = segment[6:15:3], segment[7:15:3]
    is_plain = (
        0 < _padded(height) * _padded(width) <= MAX_PIXELS
        and components == bytes([1, 2, 3])
        and samplings[0] in _SAMPLING
        and samplings[1:] == bytes([0x11, 0x11])
    )
    return (height, width) if is_plain else None


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
    def decode(self, contents: Sequence[bytes]) -> list[Tensor | None]:
        """The network's input (S, S, 3) of each JPEG that has a `jpeg_size`; None for one that Pillow has to decode."""
        found: list[Tensor | None] = []
        for group in _groups(contents):
            stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
            decoded = self._decoder.decode(list(group), cuda_stream=stream)
            images = [
                None if image is None else torch.utils.dlpack.from_dlpack(image)
                for image, _ in zip(decoded, group, strict=True)
            ]
            resized = iter(self.resize([image for image in images if image is not None]))
            found += [None if image is None else next(resized) for image in images]
        return found

    @torch.inference_mode()
    def resize(self, images: Sequence[Tensor]) -> list[Tensor | None]:
        """Crop and resize images (H, W, 3) to the network's input, as `preprocess_image` does.

        None for an image whose last pixel is gray, as where pixels are missing from a file.
        """
        if not images:
            return []
        pixels, last = self._resize_together(images)
        gray = ((last - 127) < 2).all(1).tolist()
        return [None if is_gray else image for is_gray, image in zip(gray, pixels.unbind(), strict=True)]

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
        columns = canvas.transpose(1, 2).reshape(count, width, height * 3).float()
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


def _groups(contents: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Consecutive JPEGs that, padded to the same size, have at most `MAX_PIXELS` pixels."""
    group: list[bytes] = []
    height = width = 0
    for content in contents:
        own_height, own_width = jpeg_size(content) or (0, 0)
        height, width = max(height, own_height), max(width, own_width)
        if group and (len(group) + 1) * _padded(height) * _padded(width) > MAX_PIXELS:
            yield group
            group, height, width = [], own_height, own_width
        group.append(content)
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
    """Decode `images` on the encoder's device, in order; at most `workers` threads read files."""
    preprocessing, device = encoder.spec.preprocessing, encoder.device
    decoder = JpegDecoder(preprocessing, device)
    # Of high priority: its small kernels would else wait for those of the network, one after the other.
    stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def read(start: int) -> list[tuple[ImageFile, Source]]:
        return [(image, _source(image, preprocessing)) for image in images[start : start + CHUNK]]

    def decode(sources: list[tuple[ImageFile, Source]]) -> tuple[DecodedBatch, torch.cuda.Event | None]:
        with torch.inference_mode(), torch.cuda.stream(stream):
            batch = _decode(sources, decoder, preprocessing, device)
            finished = torch.cuda.Event() if stream else None
            if finished:
                finished.record(stream)
        return batch, finished

    threads = min(READERS, workers)
    chunks = map_ahead(read, range(0, len(images), CHUNK), workers=threads, ahead=4 * threads)
    with closing(chunks), closing(map_ahead(decode, _batches(chunks), workers=1, ahead=BATCHES_AHEAD)) as batches:
        for batch, finished in batches:
            if finished:
                compute_stream = torch.cuda.current_stream(device)
                compute_stream.wait_event(finished)
                batch.pixels.record_stream(compute_stream)
            yield batch


def _batches(chunks: Iterable[list[tuple[ImageFile, Source]]]) -> Iterator[list[tuple[ImageFile, Source]]]:
    """Join chunks to batches of `GPU_BATCH` images; the last one may be smaller."""
    batch: list[tuple[ImageFile, Source]] = []
    for chunk in chunks:
        batch += chunk
        if len(batch) >= GPU_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _source(image: ImageFile, preprocessing: Preprocessing) -> Source:
    try:
        content = image.content()
    except ImageError as error:
        return str(error)
    if preprocessing.interpolation in ("bilinear", "bicubic") and jpeg_size(content):
        return content
    return _decode_with_pillow(content, preprocessing)


def _decode_with_pillow(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8] | str:
    try:
        return decode_pixels(content, preprocessing)
    except ImageError as error:
        return str(error)


def _decode(
    sources: list[tuple[ImageFile, Source]], decoder: JpegDecoder, preprocessing: Preprocessing, device: torch.device
) -> DecodedBatch:
    decoded = iter(decoder.decode([source for _, source in sources if isinstance(source, bytes)]))
    blank = torch.zeros(preprocessing.size, preprocessing.size, 3, dtype=torch.uint8, device=device)
    pixels = [blank] * GPU_BATCH
    reasons: list[str | None] = [None] * len(sources)
    for place, (_, source) in enumerate(sources):
        found: Tensor | NDArray[np.uint8] | str | None
        if isinstance(source, bytes):
            found = next(decoded)
            if found is None:
                found = _decode_with_pillow(source, preprocessing)
        else:
            found = source
        if isinstance(found, str):
            reasons[place] = found
        else:
            pixels[place] = found if isinstance(found, Tensor) else torch.tensor(found, device=device)
    return DecodedBatch([image for image, _ in sources], reasons, torch.stack(pixels))
