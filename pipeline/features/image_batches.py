"""Batches of image files on their way to features: what extraction on a CPU and on a GPU share."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import read_image_bytes
from pipeline.encoders.images import decode_pixels, read_file
from pipeline.encoders.spec import Preprocessing
from pipeline.features.feature_file import Features

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file as `prepare` found it."""

    image: str
    """Its id: the path below the image folder."""
    path: Path
    sha256: str

    def pixels(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Return the encoder's input (S, S, 3). Raises `ImageError`."""
        return decode_pixels(read_file(partial(read_image_bytes, self.path), self.sha256), preprocessing)


@dataclass(frozen=True)
class EncodedBatch:
    """The features of a batch."""

    keys: list[str]
    """sha256 of each image that can be decoded."""
    features: Features
    """(len(keys), R, C)"""
    unreadable: dict[str, str]
    """Reason by sha256 for each image that cannot be decoded."""


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Apply `function` to `items` in threads and yield the results in order, at most `ahead` items ahead."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
