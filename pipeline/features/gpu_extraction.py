"""Extraction on a GPU: processes decode and resize images, the GPU runs the network.

    files → processes: decode, resize → shared memory → GPU: network → features

Batches overlap: the pixels of one are copied to the GPU while another is encoded and the features of a third are
copied back. A batch's memory is filled again once its features have been collected, so memory is bounded, and
decoding waits for the GPU.

With `encoder.jpeg_decoder: nvimgcodec` the GPU decodes and resizes JPEGs as well: see `gpu_decoding`.

The same code runs on a CPU, without overlap; the tests use that.

B images of a batch, S input side, R regions, C channels.
"""

import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encoders.encoder import GPU_BATCH, Encoder
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import PeerError
from pipeline.features.decode_pool import Answer, DecodePool, DecodeThreads
from pipeline.features.gpu_decoding import Jpeg, JpegDecoder
from pipeline.features.image_batches import EncodedBatch, ImageFile, map_ahead

CHUNK = 16
"""Images that a worker process gets at a time."""
MAX_PENDING = 3
"""Batches on the GPU at a time."""
GPU_DECODED = 4 * GPU_BATCH
"""Images that the GPU decodes at a time, if it does; one such group is decoded before the network needs it."""


Pool = DecodePool | DecodeThreads


@dataclass(frozen=True)
class ReadBatch:
    """Images in the memory of a pool."""

    images: Sequence[ImageFile]
    answers: Sequence[Answer]
    """Those of the pool, for each image."""
    first: int
    """The slot of the first image; those of the others follow."""


@dataclass(frozen=True)
class DecodedBatch:
    """Images for one forward pass of the network."""

    images: Sequence[ImageFile]
    reasons: Sequence[str | None]
    """For each image None, or the reason why it cannot be used."""
    pixels: Tensor
    """(GPU_BATCH, S, S, 3) uint8, in host memory or on the device; only those of usable images matter."""


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

    Keeps `MAX_PENDING` batches on the device. Warns where no processes can be started: threads then decode. Raises
    `NumericError`, and `PeerError` when a process that crashed cannot be started again.
    """
    workers = max(1, min(workers, -(-len(images) // CHUNK)))
    preprocessing = encoder.spec.preprocessing
    size, decoded, in_use = GPU_BATCH, _decoded_by_pillow, MAX_PENDING  # in_use: batches whose memory the device reads
    if preprocessing.jpeg_decoder == "nvimgcodec":
        size, decoded, in_use = GPU_DECODED, _decoded_on_gpu, 1
    ahead = -(-(2 * workers + 1) * CHUNK // size)  # batches that `map_ahead` has begun to read
    extractor = GpuExtractor(encoder)
    pending: deque[PendingBatch] = deque()
    with (
        _pool(preprocessing, (in_use + ahead + 2) * size, workers) as pool,
        closing(_read(images, pool, workers, size)) as read,
        closing(decoded(read, pool, encoder, workers)) as batches,
    ):
        try:
            for batch in batches:
                pending.append(extractor.submit(batch))
                if len(pending) >= MAX_PENDING:
                    yield extractor.collect(pending.popleft())
            while pending:
                yield extractor.collect(pending.popleft())
        except BaseException:
            pool.close()  # the threads of `batches` and `read` wait for the processes
            raise


def _pool(preprocessing: Preprocessing, images: int, workers: int) -> Pool:
    """Processes that decode, or threads where none can be started, with memory for `images` images."""
    try:
        return DecodePool(preprocessing, images, workers)
    except PeerError as error:
        warnings.warn(f"{error}; threads decode them, which is slower with more than five cores", stacklevel=2)
        return DecodeThreads(preprocessing, images)


def _read(images: Sequence[ImageFile], pool: Pool, workers: int, size: int) -> Generator[ReadBatch, None, None]:
    """Read `images` into the memory of `pool`, in order, in batches of `size`; slots are used again in their order."""

    def read(start: int) -> list[Answer]:
        chunk = images[start : start + CHUNK]
        return pool.decode(chunk, [(start + place) % len(pool.slots) for place in range(len(chunk))])

    with closing(map_ahead(read, range(0, len(images), CHUNK), workers=workers, ahead=2 * workers)) as chunks:
        for start in range(0, len(images), size):
            some = images[start : start + size]
            answers: list[Answer] = []
            while len(answers) < len(some):
                answers += next(chunks)
            yield ReadBatch(some, answers, start % len(pool.slots))


def _decoded_by_pillow(
    read: Iterable[ReadBatch], pool: Pool, encoder: Encoder, workers: int
) -> Generator[DecodedBatch, None, None]:
    """The images that the processes decoded, in memory that the device copies from without waiting."""
    pixels = torch.from_numpy(pool.pixels)
    with registered(pool.slots, encoder.device):
        for batch in read:
            reasons = [answer if isinstance(answer, str) else None for answer in batch.answers]
            yield DecodedBatch(batch.images, reasons, pixels[batch.first : batch.first + GPU_BATCH])


def _decoded_on_gpu(
    read: Iterable[ReadBatch], pool: Pool, encoder: Encoder, workers: int
) -> Generator[DecodedBatch, None, None]:
    """The images that the processes read, decoded and resized on the device."""
    device = encoder.device
    decoder = JpegDecoder(encoder.spec.preprocessing, device)
    # High priority: otherwise its small kernels queue behind those of the network.
    stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def decode(batch: ReadBatch) -> tuple[ReadBatch, Tensor, torch.cuda.Event | None]:
        with torch.inference_mode(), torch.cuda.stream(stream):
            batch, pixels = _decode(batch, pool, decoder, pillow_threads, device)
            finished = torch.cuda.Event() if stream else None
            if finished:
                finished.record(stream)
        return batch, pixels, finished

    with ThreadPoolExecutor(workers) as pillow_threads, closing(map_ahead(decode, read, workers=1, ahead=1)) as batches:
        for batch, pixels, finished in batches:
            if finished:
                compute_stream = torch.cuda.current_stream(device)
                compute_stream.wait_event(finished)
                pixels.record_stream(compute_stream)
            reasons = [answer if isinstance(answer, str) else None for answer in batch.answers]
            for start in range(0, len(reasons), GPU_BATCH):
                some = slice(start, start + GPU_BATCH)
                yield DecodedBatch(batch.images[some], reasons[some], pixels[some])


def _decode(
    batch: ReadBatch,
    pool: Pool,
    decoder: JpegDecoder,
    pillow_threads: ThreadPoolExecutor,
    device: torch.device,
) -> tuple[ReadBatch, Tensor]:
    """Decode the JPEGs of a batch on the device; those that Pillow has to decode after all, in the processes.

    Returns the batch with the final answers, and pixels (`GPU_DECODED`, S, S, 3).
    """
    answers = list(batch.answers)
    jpegs = {
        place: Jpeg(pool.slots[batch.first + place, : answer[0]], *answer[1:])
        for place, answer in enumerate(answers)
        if isinstance(answer, tuple)
    }
    decoded = dict(zip(jpegs, decoder.decode(list(jpegs.values())), strict=True))
    refused = [place for place, one in decoded.items() if one is None]

    def decode_again(place: int) -> Answer:
        return pool.decode([batch.images[place]], [batch.first + place], with_pillow=True)[0]

    for place, answer in zip(refused, pillow_threads.map(decode_again, refused), strict=True):
        answers[place] = answer
    by_pillow = torch.from_numpy(pool.pixels[batch.first : batch.first + GPU_DECODED])
    pixels = torch.zeros(by_pillow.shape, dtype=torch.uint8, device=device)
    on_host = [place for place, answer in enumerate(answers) if answer is None]
    if on_host:
        pixels[torch.tensor(on_host, device=device)] = by_pillow[on_host].to(device)
    on_device = {place: one for place, one in decoded.items() if one is not None}
    if on_device:
        pixels[torch.tensor(list(on_device), device=device)] = torch.stack(list(on_device.values()))
    return replace(batch, answers=answers), pixels


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
