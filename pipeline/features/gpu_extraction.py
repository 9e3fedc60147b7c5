"""Extraction on a GPU, where decoding images takes longest: threads decode them, the GPU does everything else.

    files → threads: decode → pinned memory → GPU: resize images of equal shape together, run the network → features

`submit` starts the work of a batch and `collect` waits for its features. Batches overlap: the pixels of one are copied
to the GPU while another is encoded and the features of a third are copied back.

Resizing on the GPU returns Pillow's bytes (`accel.resampling`), so it does not matter where an image is resized. JPEGs
are not decoded on the GPU: NVIDIA's decoder upsamples chroma differently from Pillow, so that `predict` would see
other pixels than the decoder was trained on.

The same code runs on a CPU, without overlap; the tests use that.

B images of a batch, S input side, R regions, C channels.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.accel.resampling import can_resample, resample
from pipeline.encoders.encoder import GPU_BATCH, Encoder
from pipeline.encoders.images import decode_image, to_rgb_image
from pipeline.features.image_batches import (
    Batch,
    DecodedBatch,
    EncodedBatch,
    ImageFile,
    decode_batch,
    map_ahead,
    split_into_batches,
)

CHUNK = 16
"""Images that a thread decodes one after another. Four chunks make a batch."""
MAX_GPU_RESIZE_PIXELS = 1_000_000
"""Larger images are resized by the threads, so that less memory is queued and copied."""
MAX_PENDING = 3
"""Batches on the GPU at a time."""


class DecodedImage(NamedTuple):
    """An image in host memory."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), or (S, S, 3) if `resized`."""
    resized: bool


@dataclass
class PendingBatch:
    """A batch whose features the GPU is computing."""

    rows: list[int]
    features: Tensor
    """(B, R, C) in host memory, valid after `finished`."""
    finished: torch.cuda.Event | None
    """None on a CPU."""
    unreadable: dict[str, str]


class GpuExtractor:
    """Encodes batches of decoded images on one device. `decode` may run in any thread, the rest in one."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.device = encoder.device
        self._cuda = self.device.type == "cuda"
        self._copy_stream = torch.cuda.Stream(self.device) if self._cuda else None
        self._staging: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        """Pinned memory and the event after which its copy to the GPU is complete."""
        shape = (GPU_BATCH, encoder.regions, encoder.channels)
        self._outputs = deque(self._allocate_pinned(shape, torch.float16) for _ in range(MAX_PENDING + 1))
        self.resizes_on_device = self._resizes_exactly()
        """Whether the device resizes images. The threads do it where the device would not return Pillow's bytes."""

    def decode(self, chunk: Batch) -> DecodedBatch[DecodedImage]:
        """Read and decode the images of a chunk. Thread-safe."""
        preprocessing = self.encoder.spec.preprocessing

        def decode(content: bytes) -> DecodedImage:
            image = decode_image(content)
            small = image.width * image.height <= MAX_GPU_RESIZE_PIXELS
            if self.resizes_on_device and small and can_resample(preprocessing, *image.size):
                return DecodedImage(np.asarray(image), resized=False)
            return DecodedImage(self.encoder.preprocess(image), resized=True)

        return decode_batch(chunk, decode)

    def submit(self, chunks: Sequence[DecodedBatch[DecodedImage]]) -> PendingBatch:
        """Start encoding a batch of at most `GPU_BATCH` images."""
        pairs = [pair for chunk in chunks for pair in zip(chunk.rows, chunk.decoded, strict=True)]
        pairs.sort(key=lambda pair: _shape_key(pair[1]))
        unreadable = {sha256: reason for chunk in chunks for sha256, reason in chunk.unreadable.items()}
        with torch.inference_mode():
            features = self.encoder.forward(self.network_input([image for _, image in pairs]))
            output = self._outputs.popleft()
            output.copy_(features, non_blocking=self._cuda)
            finished = torch.cuda.Event() if self._cuda else None
            if finished:
                finished.record(torch.cuda.current_stream(self.device))
        return PendingBatch([row for row, _ in pairs], output, finished, unreadable)

    def collect(self, pending: PendingBatch) -> EncodedBatch:
        """Wait for a batch and return its features. Raises `NumericError`."""
        if pending.finished:
            pending.finished.synchronize()
        features = np.array(pending.features[: len(pending.rows)].numpy())
        self._outputs.append(pending.features)
        return EncodedBatch(pending.rows, self.encoder.check_finite(features), pending.unreadable)

    def network_input(self, decoded: Sequence[DecodedImage]) -> Tensor:
        """Copy images to the device and resize them: the network's input (GPU_BATCH, S, S, 3), padded with zeros.

        `decoded` is sorted by `_shape_key`, so that images of one shape are adjacent and resized together.
        """
        preprocessing = self.encoder.spec.preprocessing
        size = preprocessing.size
        batch = torch.zeros(GPU_BATCH, size, size, 3, dtype=torch.uint8, device=self.device)
        if not decoded:
            return batch
        uploaded = self._upload([image.pixels for image in decoded])
        first = start = 0
        for (resized, shape), group in groupby(decoded, key=_shape_key):
            count = len(list(group))
            end = start + count * math.prod(shape)
            images = uploaded[start:end].view(count, *shape)  # (count, H, W, 3)
            batch[first : first + count] = images if resized else resample(images, preprocessing)
            first, start = first + count, end
        return batch

    def _resizes_exactly(self) -> bool:
        """Whether the device resizes noise to Pillow's bytes; some compute matrix products with fewer bits."""
        preprocessing = self.encoder.spec.preprocessing
        pixels = (np.random.default_rng(0).integers(0, 2, (150, 200, 3)) * 255).astype(np.uint8)
        if not can_resample(preprocessing, 200, 150):
            return False
        with torch.inference_mode():
            ours = resample(torch.from_numpy(pixels).to(self.device).unsqueeze(0), preprocessing)[0].cpu().numpy()
        return np.array_equal(ours, self.encoder.preprocess(to_rgb_image(pixels)))

    def _upload(self, arrays: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Copy the bytes of `arrays`, concatenated, to the device, on a stream of its own."""
        size = sum(array.size for array in arrays)
        host = self._staging_memory(size)
        np.concatenate([array.reshape(-1) for array in arrays], out=host.numpy()[:size])
        if self._copy_stream is None:
            self._staging.append((host, None))
            return host[:size].to(self.device, copy=True)
        with torch.cuda.stream(self._copy_stream):
            uploaded = host[:size].to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._copy_stream)
        self._staging.append((host, copied))
        compute_stream = torch.cuda.current_stream(self.device)
        compute_stream.wait_event(copied)
        uploaded.record_stream(compute_stream)
        return uploaded

    def _staging_memory(self, size: int) -> Tensor:
        """Return pinned memory of at least `size` bytes, reused once its last copy is complete."""
        if len(self._staging) <= MAX_PENDING:
            return self._allocate_pinned((size,), torch.uint8)
        host, copied = self._staging.popleft()
        if copied:
            copied.synchronize()
        return host if len(host) >= size else self._allocate_pinned((size + size // 4,), torch.uint8)

    def _allocate_pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=self._cuda)


def encode_on_gpu(
    images: Sequence[ImageFile], encoder: Encoder, *, batch_size: int, workers: int
) -> Generator[EncodedBatch, None, None]:
    """Decode `images` in `workers` threads and encode them on the encoder's device, in order.

    `batch_size` is ignored: a GPU always encodes `GPU_BATCH` images at a time.
    """
    extractor = GpuExtractor(encoder)
    with closing(map_ahead(extractor.decode, split_into_batches(images, CHUNK), workers)) as chunks:
        yield from _overlapped(extractor, chunks)


def _overlapped(extractor: GpuExtractor, chunks: Iterable[DecodedBatch[DecodedImage]]) -> Iterator[EncodedBatch]:
    """Keep `MAX_PENDING` batches on the device."""
    pending: deque[PendingBatch] = deque()
    chunks = iter(chunks)
    while batch := list(islice(chunks, GPU_BATCH // CHUNK)):
        pending.append(extractor.submit(batch))
        if len(pending) >= MAX_PENDING:
            yield extractor.collect(pending.popleft())
    while pending:
        yield extractor.collect(pending.popleft())


def _shape_key(image: DecodedImage) -> tuple[bool, tuple[int, ...]]:
    return image.resized, image.pixels.shape
