"""Batches of image files on their way to features: what extraction on a CPU and on a GPU share."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pipeline.archives import read_image_bytes
from pipeline.encoders.images import ImageError
from pipeline.features.feature_file import Features

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file as `prepare` found it."""

    image: str
    """Its id: the path below the image folder."""
    path: Path
    sha256: str


@dataclass(frozen=True)
class Batch:
    """Images that are decoded together."""

    start: int
    """Row of the first image in the new segment of the store; the others follow."""
    images: Sequence[ImageFile]


@dataclass(frozen=True)
class DecodedBatch(Generic[Decoded]):
    """The decoded images of a batch, in no particular form."""

    rows: list[int]
    """Row of each decoded image."""
    decoded: list[Decoded]
    unreadable: dict[str, str]
    """Reason by sha256 for each image that cannot be decoded."""


@dataclass(frozen=True)
class EncodedBatch:
    """The features of a batch."""

    rows: list[int]
    features: Features
    """(len(rows), R, C)"""
    unreadable: dict[str, str]


def split_into_batches(images: Sequence[ImageFile], size: int) -> Iterator[Batch]:
    """Split `images` into batches of at most `size`."""
    for start in range(0, len(images), size):
        yield Batch(start, images[start : start + size])


def decode_batch(batch: Batch, decode: Callable[[bytes], Decoded]) -> DecodedBatch[Decoded]:
    """Read each image file, compare its sha256 and pass its bytes to `decode`, which may raise `ImageError`."""
    result: DecodedBatch[Decoded] = DecodedBatch([], [], {})
    for row, image in enumerate(batch.images, start=batch.start):
        try:
            content = read_image_bytes(image.path)
            if hashlib.sha256(content).hexdigest() != image.sha256:
                raise ImageError("changed since `prepare` read it; run `dvc repro` again")
            result.decoded.append(decode(content))
            result.rows.append(row)
        except OSError as error:
            result.unreadable[image.sha256] = f"cannot be read: {error.strerror}"
        except ImageError as error:
            result.unreadable[image.sha256] = str(error)
    return result


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Apply `function` to `items` in threads and yield the results in order, at most 2 * `workers` items ahead."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
