"""Encoding on an accelerator, where unpacking pictures takes longest: threads open files, the device does all else.

    file → threads: bytes, or pixels → pinned memory → device: unpacked, scaled by shape, through the network → rows

No step waits for the one before it: a batch's pixels are copied over while earlier ones go through the network, and its
rows are fetched when later ones are under way. Scaling gives the bytes that Pillow gives (`resampling`), so it does not
matter where a picture is scaled. Where CUDA and torchcodec are there, three quarters of the plain JPEGs are unpacked on
the device, which ones following from their bytes alone; its decoder's last bits are its own, so the engine names it.

On a CPU all of this runs as well, in the same order, with nothing to overlap.

B pictures of a batch, S side of the network's input, R regions, C channels.
"""

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.features import images
from pipeline.features.batch import Batch, Encoded, Picture, unpacked
from pipeline.features.device_jpeg import Decode, device_decoder
from pipeline.features.encoder import ACCELERATOR_BATCH, Encoder
from pipeline.features.resampling import can_resample, resample


class Pixels(NamedTuple):
    """An unpacked picture in the host's memory."""

    values: NDArray[np.uint8]
    """(H, W, 3), or (S, S, 3) when it is `scaled`."""
    scaled: bool


Group = tuple[bool, list[int], Tensor]
"""Pictures (n, H, W, 3) of one shape on the device, their numbers in the batch, and whether they are scaled already."""

ON_DEVICE = 0.75
"""The share of plain JPEGs that the device unpacks, while threads unpack the others; from published rates."""
LARGE = 4_000_000
"""Pixels above which a picture is scaled before it is sent: the copy would take longer."""
UNDER_WAY = 3
"""Batches on the device at a time."""


@dataclass
class Opened:
    """A batch as the threads leave it."""

    places: list[int]
    """In the new shard."""
    contents: list[bytes | Pixels]
    """A JPEG for the device to unpack, or pixels."""
    digests: list[str]
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


class Conveyor:
    """The device's side: one object for a run, used by one thread."""

    def __init__(self, encoder: Encoder, decode: Decode | None = None) -> None:
        self.encoder = encoder
        self.device = encoder.device
        self.decode = decode
        self._cuda = self.device.type == "cuda"
        self._copying = torch.cuda.Stream(self.device) if self._cuda else None
        self._decoding = torch.cuda.Stream(self.device) if self._cuda else None
        self._staging: deque[tuple[Tensor, Any]] = deque()
        """Pinned memory whose copy is done when the event is."""
        shape = (ACCELERATOR_BATCH, encoder.regions, encoder.channels)
        self._results = deque(self._pinned(shape, torch.float16) for _ in range(UNDER_WAY + 1))

    def open(self, batch: Batch) -> Opened:
        """Read and unpack a batch, but for what the device unpacks. Any number of threads at a time."""

        def unpack(content: bytes, picture: Picture) -> tuple[bytes | Pixels, str]:
            sent = self._is_for_the_device(content, picture.sha256)
            return content if sent else self._unpacked(content), picture.sha256

        places, found, bad = unpacked(batch, unpack)
        return Opened(places, [content for content, _ in found], [digest for _, digest in found], bad)

    def launch(self, opened: Opened) -> Flight:
        """Begin to encode a batch."""
        decoded = self._decoded(opened)
        with torch.inference_mode():
            rows = self.encoder.forward(self.pixels(opened.contents, decoded))
            result = self._results.popleft()
            result.copy_(rows, non_blocking=True)
            landed = torch.cuda.Event() if self._cuda else None
            if landed:
                landed.record(torch.cuda.current_stream(self.device))
        return Flight(opened.places, result, landed, opened.bad)

    def land(self, flight: Flight) -> Encoded:
        """The rows of a batch, as soon as they are there. Raises `NumericError`."""
        if flight.landed:
            flight.landed.synchronize()
        rows = np.array(flight.rows[: len(flight.places)].numpy())
        self._results.append(flight.rows)
        return flight.places, self.encoder.finite(rows) if len(rows) else None, flight.bad

    def pixels(self, contents: Sequence[bytes | Pixels], decoded: dict[int, Tensor]) -> Tensor:
        """The network's input (B, S, S, 3) on the device, filled up with zeros to a whole batch; `decoded` are those of
        `contents` that the device unpacked, by number."""
        size = self.encoder.spec.transform.size
        batch = torch.zeros(ACCELERATOR_BATCH, size, size, 3, dtype=torch.uint8, device=self.device)
        whole = [number for number in range(len(contents)) if number not in decoded]
        for scaled, numbers, together in [*self._uploaded(contents, whole), *_by_shape(decoded)]:
            batch[numbers] = together if scaled else resample(together, self.encoder.spec.transform)
        return batch

    def _is_for_the_device(self, content: bytes, digest: str) -> bool:
        chosen = int(digest[:4], 16) < ON_DEVICE * 16**4
        return self.decode is not None and chosen and images.is_plain_jpeg(content)

    def _unpacked(self, content: bytes) -> Pixels:
        picture = images.decode(content)
        width, height = picture.size
        if width * height > LARGE or not can_resample(self.encoder.spec.transform, width, height):
            return Pixels(self.encoder.prepare(picture), scaled=True)
        return Pixels(np.asarray(picture), scaled=False)

    def _decoded(self, opened: Opened) -> dict[int, Tensor]:
        """What the device unpacks of a batch; what it fails to, is unpacked here."""
        numbers = [number for number, content in enumerate(opened.contents) if isinstance(content, bytes)]
        if not numbers:
            return {}
        assert self.decode is not None
        files = [torch.frombuffer(bytearray(opened.contents[number]), dtype=torch.uint8) for number in numbers]
        try:
            with torch.cuda.stream(self._decoding) if self._cuda else nullcontext():
                found = [pixels.permute(1, 2, 0) for pixels in self.decode(files)]
                sizes = [pixels.shape for pixels in found]
                transform = self.encoder.spec.transform
                if all(can_resample(transform, width, height) for height, width, _ in sizes):
                    return self._handed_over(dict(zip(numbers, found, strict=True)))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass  # the whole call fails for one bad file: which one it is, Pillow says
        self._unpack_here(opened, numbers)
        return {}

    def _handed_over(self, decoded: dict[int, Tensor]) -> dict[int, Tensor]:
        """From the decoder's stream to the network's."""
        if self._cuda:
            current = torch.cuda.current_stream(self.device)
            network = torch.cuda.default_stream(self.device)
            network.wait_stream(current)
            for pixels in decoded.values():
                pixels.record_stream(network)
        return decoded

    def _unpack_here(self, opened: Opened, numbers: Sequence[int]) -> None:
        kept: dict[int, Pixels] = {}
        for number in numbers:
            content = opened.contents[number]
            assert isinstance(content, bytes)
            try:
                kept[number] = self._unpacked(content)
            except images.ImageError as error:
                opened.bad[opened.digests[number]] = str(error)
        gone = set(numbers) - set(kept)
        there = [number for number in range(len(opened.places)) if number not in gone]
        opened.contents = [kept.get(number, opened.contents[number]) for number in there]
        opened.places = [opened.places[number] for number in there]
        opened.digests = [opened.digests[number] for number in there]

    def _uploaded(self, contents: Sequence[bytes | Pixels], numbers: Sequence[int]) -> list[Group]:
        """Pixels on the device in one copy."""
        given = {number: content for number in numbers if isinstance(content := contents[number], Pixels)}

        def kind(number: int) -> tuple[bool, tuple[int, ...]]:
            return given[number].scaled, given[number].values.shape

        order = sorted(given, key=kind)
        total = sum(given[number].values.size for number in order)
        if not total:
            return []
        host = self._stage(total)
        start = 0
        for number in order:
            values = given[number].values
            host.numpy()[start : start + values.size] = values.reshape(-1)
            start += values.size
        there = self._sent(host, total)
        found: list[Group] = []
        start = 0
        for (scaled, shape), several in groupby(order, key=kind):
            group = list(several)
            end = start + len(group) * math.prod(shape)
            found.append((scaled, group, there[start:end].view(len(group), *shape)))
            start = end
        return found

    def _stage(self, size: int) -> Tensor:
        """Host memory for so many bytes, once its last copy is done."""
        if len(self._staging) <= UNDER_WAY:
            return self._pinned((size,), torch.uint8)
        host, copied = self._staging.popleft()
        if copied:
            copied.synchronize()
        return host if len(host) >= size else self._pinned((size + size // 4,), torch.uint8)

    def _sent(self, host: Tensor, size: int) -> Tensor:
        """The first `size` bytes on the device, for the network's stream; the copy runs beside it."""
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

    def _pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, pin_memory=self._cuda)


def on_device(batches: Iterator[Batch], encoder: Encoder, workers: int) -> Generator[Encoded, None, None]:
    """Encode batches of `ACCELERATOR_BATCH` pictures at most; in their order."""
    conveyor = Conveyor(encoder, device_decoder(encoder.device))
    under_way: deque[Flight] = deque()
    opening: deque[Future[Opened]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in batches:
                opening.append(pool.submit(conveyor.open, batch))
                if len(opening) <= workers:
                    continue
                under_way.append(conveyor.launch(opening.popleft().result()))
                if len(under_way) >= UNDER_WAY:
                    yield conveyor.land(under_way.popleft())
            while opening:
                under_way.append(conveyor.launch(opening.popleft().result()))
                if len(under_way) >= UNDER_WAY:
                    yield conveyor.land(under_way.popleft())
            while under_way:
                yield conveyor.land(under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _by_shape(pictures: dict[int, Tensor]) -> list[Group]:
    """Those that have one shape (H, W, 3) together."""
    order = sorted(pictures, key=lambda number: tuple(pictures[number].shape))
    groups = (list(several) for _, several in groupby(order, key=lambda number: pictures[number].shape))
    return [(False, numbers, torch.stack([pictures[number] for number in numbers])) for numbers in groups]
