"""Encoding on an accelerator, where unpacking pictures takes longest: threads unpack them, the device does all else.

    file → threads: pixels → pinned memory → device: scaled by shape, through the network → rows

No step waits for the one before it: a batch's pixels are copied over while earlier ones go through the network, and its
rows are fetched when later ones are under way. Scaling gives the bytes that Pillow gives (`resampling`), so it does not
matter where a picture is scaled. JPEGs are not unpacked by the device: NVIDIA's decoder fills in colours otherwise than
Pillow does, so `predict` would see other pixels than the decoder was trained on.

On a CPU all of this runs as well, in the same order, with nothing to overlap.

B pictures of a batch, S side of the network's input, R regions, C channels.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.accel.resampling import can_resample, resample
from pipeline.encoders import images
from pipeline.encoders.encoder import ACCELERATOR_BATCH, Encoder
from pipeline.features.image_batches import Batch, Encoded, Picture, unpacked

PIECE = 16
"""Pictures that a thread unpacks one after another; four pieces are a batch."""
LARGE = 1_000_000
"""Pixels above which a thread scales a picture too: unpacked ones wait in memory, and are copied."""
UNDER_WAY = 3
"""Batches on the device at a time."""


class Pixels(NamedTuple):
    """An unpacked picture in the host's memory."""

    values: NDArray[np.uint8]
    """(H, W, 3), or (S, S, 3) when it is `scaled`."""
    scaled: bool


@dataclass
class Opened:
    """Pictures as the threads leave them."""

    places: list[int]
    """In the new shard."""
    pictures: list[Pixels]
    bad: dict[str, str]
    """The reason for each sha256 without a row."""


@dataclass
class Flight:
    """A batch on the device."""

    places: list[int]
    rows: Tensor
    """(B, R, C) in the host's memory, there when `landed` is."""
    landed: Any
    bad: dict[str, str]


class GpuExtractor:
    """The device's side: one object for a run, used by one thread but for `open`."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.device = encoder.device
        self._cuda = self.device.type == "cuda"
        self._copying = torch.cuda.Stream(self.device) if self._cuda else None
        self._staging: deque[tuple[Tensor, Any]] = deque()
        """Pinned memory whose copy is done when the event is."""
        shape = (ACCELERATOR_BATCH, encoder.regions, encoder.channels)
        self._results = deque(self._pinned(shape, torch.float16) for _ in range(UNDER_WAY + 1))
        self.scales = self._scales_exactly()
        """Whether the device scales pictures; the threads do it where it would not give Pillow's bytes."""

    def open(self, piece: Batch) -> Opened:
        """Read and unpack a piece. Any number of threads at a time."""

        def unpack(content: bytes, _: Picture) -> Pixels:
            picture = images.decode(content)
            width, height = picture.size
            small = width * height <= LARGE and can_resample(self.encoder.spec.transform, width, height)
            if self.scales and small:
                return Pixels(np.asarray(picture), scaled=False)
            return Pixels(self.encoder.prepare(picture), scaled=True)

        return Opened(*unpacked(piece, unpack))

    def launch(self, pieces: Sequence[Opened]) -> Flight:
        """Begin to encode a batch."""
        pairs = [pair for piece in pieces for pair in zip(piece.places, piece.pictures, strict=True)]
        pairs.sort(key=lambda pair: _kind(pair[1]))
        bad = {digest: reason for piece in pieces for digest, reason in piece.bad.items()}
        with torch.inference_mode():
            rows = self.encoder.forward(self.pixels([picture for _, picture in pairs]))
            result = self._results.popleft()
            result.copy_(rows, non_blocking=self._cuda)  # elsewhere there is no event to wait for
            landed = torch.cuda.Event() if self._cuda else None
            if landed:
                landed.record(torch.cuda.current_stream(self.device))
        return Flight([place for place, _ in pairs], result, landed, bad)

    def land(self, flight: Flight) -> Encoded:
        """The rows of a batch, as soon as they are there. Raises `NumericError`."""
        if flight.landed:
            flight.landed.synchronize()
        rows = np.array(flight.rows[: len(flight.places)].numpy())
        self._results.append(flight.rows)
        return flight.places, self.encoder.finite(rows) if len(rows) else None, flight.bad

    def pixels(self, pictures: Sequence[Pixels]) -> Tensor:
        """The network's input (B, S, S, 3) on the device, filled up with zeros to a whole batch. `pictures` are in the
        order of `_kind`, so that those of one shape stand together."""
        size = self.encoder.spec.transform.size
        batch = torch.zeros(ACCELERATOR_BATCH, size, size, 3, dtype=torch.uint8, device=self.device)
        if not pictures:
            return batch
        there = self._uploaded([picture.values for picture in pictures])
        number = start = 0
        for (scaled, shape), several in groupby(pictures, key=_kind):
            count = len(list(several))
            end = start + count * math.prod(shape)
            together = there[start:end].view(count, *shape)
            batch[number : number + count] = together if scaled else resample(together, self.encoder.spec.transform)
            number, start = number + count, end
        return batch

    def _scales_exactly(self) -> bool:
        """Whether a hard picture comes out as Pillow has it: a device may compute products with fewer bits."""
        transform = self.encoder.spec.transform
        pixels = (np.random.default_rng(0).integers(0, 2, (150, 200, 3)) * 255).astype(np.uint8)
        if not can_resample(transform, 200, 150):
            return False
        with torch.inference_mode():
            ours = resample(torch.from_numpy(pixels).to(self.device).unsqueeze(0), transform)[0].cpu().numpy()
        return np.array_equal(ours, self.encoder.prepare(images.to_rgb_image(pixels)))

    def _uploaded(self, arrays: Sequence[NDArray[np.uint8]]) -> Tensor:
        """All their bytes, one after another on the device, for the network's stream; the copy runs beside it."""
        size = sum(array.size for array in arrays)
        host, start = self._stage(size), 0
        for array in arrays:
            host.numpy()[start : start + array.size] = array.reshape(-1)
            start += array.size
        if not self._cuda:
            self._staging.append((host, None))
            return host[:size].to(self.device, copy=True)
        assert self._copying is not None
        with torch.cuda.stream(self._copying):
            there = host[:size].to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._copying)
        self._staging.append((host, copied))
        network = torch.cuda.current_stream(self.device)
        network.wait_event(copied)
        there.record_stream(network)
        return there

    def _stage(self, size: int) -> Tensor:
        """Host memory for so many bytes, once its last copy is done."""
        if len(self._staging) <= UNDER_WAY:
            return self._pinned((size,), torch.uint8)
        host, copied = self._staging.popleft()
        if copied:
            copied.synchronize()
        return host if len(host) >= size else self._pinned((size + size // 4,), torch.uint8)

    def _pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=self._cuda)


def on_device(pieces: Iterable[Batch], encoder: Encoder, workers: int) -> Generator[Encoded, None, None]:
    """Encode pieces of `PIECE` pictures at most, as batches of four of them; in their order."""
    conveyor = GpuExtractor(encoder)
    under_way: deque[Flight] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches_of(_ahead(pieces, conveyor, pool, workers)):
                under_way.append(conveyor.launch(batch))
                if len(under_way) >= UNDER_WAY:
                    yield conveyor.land(under_way.popleft())
            while under_way:
                yield conveyor.land(under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _ahead(pieces: Iterable[Batch], conveyor: GpuExtractor, pool: ThreadPoolExecutor, workers: int) -> Iterator[Opened]:
    """Opened pieces in their order, while the threads open the next ones."""
    opening: deque[Future[Opened]] = deque()
    for piece in pieces:
        opening.append(pool.submit(conveyor.open, piece))
        if len(opening) > 2 * workers:
            yield opening.popleft().result()
    while opening:
        yield opening.popleft().result()


def _batches_of(opened: Iterator[Opened]) -> Iterator[list[Opened]]:
    """Pieces together, as many as surely fit into a batch."""
    batch: list[Opened] = []
    for piece in opened:
        batch.append(piece)
        if len(batch) == ACCELERATOR_BATCH // PIECE:
            yield batch
            batch = []
    if batch:
        yield batch


def _kind(picture: Pixels) -> tuple[bool, tuple[int, ...]]:
    return picture.scaled, picture.values.shape
