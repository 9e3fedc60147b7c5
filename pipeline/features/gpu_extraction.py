"""Extraction on a GPU: processes decode and resize images, the GPU runs the network.

    files → processes: decode, resize → shared memory → GPU: network → features

Batches overlap: the pixels of one are copied to the GPU while another is encoded and the features of a third are
copied back. A batch's memory is filled again once its features have been collected, so memory is bounded, and
decoding waits for the GPU.

With `encoder.jpeg_decoder: nvimgcodec` the GPU decodes JPEGs as well: see `gpu_decoding`.

The same code runs on a CPU, without overlap; the tests use that.

B images of a batch, S input side, R regions, C channels.
"""

import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.encoder import GPU_BATCH, Encoder
from pipeline.features.decode_pool import DecodePool, Reasons
from pipeline.features.gpu_decoding import decoded_on_gpu
from pipeline.features.image_batches import DecodedBatch, EncodedBatch, ImageFile, map_ahead

CHUNK = 16
"""Images that a worker process gets at a time."""
MAX_PENDING = 3
"""Batches on the GPU at a time."""


@dataclass
class PendingBatch:
    """A batch whose features the GPU is computing."""

    batch: DecodedBatch
    features: Tensor
    """(GPU_BATCH, R, C) in host memory, valid after `finished`."""
    finished: torch.cuda.Event | None
    """None on a CPU."""


class GpuExtractor:
    """Encodes batches of decoded images on one device, in one thread."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.device = encoder.device
        self._cuda = self.device.type == "cuda"
        self._copy_stream = torch.cuda.Stream(self.device) if self._cuda else None
        shape = (GPU_BATCH, encoder.regions, encoder.channels)
        self._outputs = deque(
            torch.empty(shape, dtype=torch.float16, pin_memory=self._cuda) for _ in range(MAX_PENDING + 1)
        )

    def submit(self, batch: DecodedBatch) -> PendingBatch:
        """Start encoding a batch, whose pixels must not change before it is collected."""
        with torch.inference_mode():
            features = self.encoder.forward(self._upload(batch.pixels))
            output = self._outputs.popleft()
            output.copy_(features, non_blocking=self._cuda)
            finished = torch.cuda.Event() if self._cuda else None
            if finished:
                finished.record(torch.cuda.current_stream(self.device))
        return PendingBatch(batch, output, finished)

    def collect(self, pending: PendingBatch) -> EncodedBatch:
        """Wait for a batch and return the features of its readable images. Raises `NumericError`."""
        if pending.finished:
            pending.finished.synchronize()
        batch = pending.batch
        readable = [place for place, reason in enumerate(batch.reasons) if reason is None]
        features = pending.features.numpy()[readable]  # a copy
        self._outputs.append(pending.features)
        unreadable = {image.sha256: why for image, why in zip(batch.images, batch.reasons, strict=True) if why}
        keys = [batch.images[place].sha256 for place in readable]
        return EncodedBatch(keys, self.encoder.check_finite(features), unreadable)

    def _upload(self, pixels: Tensor) -> Tensor:
        """Copy to the device, on a stream of its own."""
        if self._copy_stream is None or pixels.is_cuda:
            return pixels.to(self.device)
        with torch.cuda.stream(self._copy_stream):
            uploaded = pixels.to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._copy_stream)
        compute_stream = torch.cuda.current_stream(self.device)
        compute_stream.wait_event(copied)
        uploaded.record_stream(compute_stream)
        return uploaded


def encode_on_gpu(images: Sequence[ImageFile], encoder: Encoder, workers: int) -> Generator[EncodedBatch, None, None]:
    """Encode `images` on the encoder's device, in order; at most `workers` processes or threads read and decode.

    Keeps `MAX_PENDING` batches on the device. Raises `NumericError`, and `PeerError` when processes cannot be started.
    """
    on_gpu = encoder.spec.preprocessing.jpeg_decoder == "nvimgcodec"
    decoded = decoded_on_gpu if on_gpu else decoded_in_processes
    extractor = GpuExtractor(encoder)
    pending: deque[PendingBatch] = deque()
    with closing(decoded(images, encoder, workers)) as batches:
        for batch in batches:
            pending.append(extractor.submit(batch))
            if len(pending) >= MAX_PENDING:
                yield extractor.collect(pending.popleft())
        while pending:
            yield extractor.collect(pending.popleft())


def decoded_in_processes(
    images: Sequence[ImageFile], encoder: Encoder, workers: int
) -> Generator[DecodedBatch, None, None]:
    """Decode `images` in `workers` processes, in order, into memory that the device copies from without waiting.

    A batch's memory is filled again `MAX_PENDING` batches later. Raises `PeerError`.
    """
    workers = max(1, min(workers, -(-len(images) // CHUNK)))
    ahead = -(-(2 * workers + 1) * CHUNK // GPU_BATCH)  # batches that `map_ahead` has begun to decode
    buffers = MAX_PENDING + ahead + 2
    pool = DecodePool(encoder.spec.preprocessing, buffers * GPU_BATCH, workers)
    with pool, registered(pool.slots, encoder.device):

        def decode(start: int) -> Reasons:
            chunk = images[start : start + CHUNK]
            return pool.decode(chunk, [(start + place) % len(pool.slots) for place in range(len(chunk))])

        slots = torch.from_numpy(pool.slots)
        decoded = map_ahead(decode, range(0, len(images), CHUNK), workers=workers, ahead=2 * workers)
        try:
            for start in range(0, len(images), GPU_BATCH):
                some = images[start : start + GPU_BATCH]
                reasons: Reasons = []
                while len(reasons) < len(some):
                    reasons += next(decoded)
                first = start % len(slots)
                yield DecodedBatch(some, reasons, slots[first : first + GPU_BATCH])
        except BaseException:
            pool.close()  # `map_ahead` waits for its threads, and these for the workers
            decoded.close()
            raise


@contextmanager
def registered(slots: NDArray[np.uint8], device: torch.device) -> Iterator[None]:
    """Within the block, copies of `slots` to a CUDA device are asynchronous."""
    if device.type != "cuda":
        yield
        return
    cuda = torch.cuda.cudart()
    failed = int(cuda.cudaHostRegister(slots.ctypes.data, slots.nbytes, 0))
    if failed:
        with suppress(RuntimeError):
            torch.zeros(1, device=device)  # raises CUDA's last error, which would else end the first computation
        warnings.warn(f"copies to the GPU are slower: the memory cannot be registered ({failed})", stacklevel=2)
    try:
        yield
    finally:
        torch.cuda.synchronize(device)
        if not failed:
            cuda.cudaHostUnregister(slots.ctypes.data)
