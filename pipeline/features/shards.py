"""A folder of shards: features of more images than one file should contain, read like one features.h5.

    shards/000000.h5   a features.h5 with the images of one part of the manifest
    index.json         the digest of each shard, written when all of them are finished

Opening a folder reads the ids and checksums of every shard, about a quarter of a millisecond each, and compares their
digest, so that a shard that is missing, truncated or from another folder raises an error naming it. (HDF5's virtual
datasets return zeros for a missing file.) A shard is mapped when one of its rows is read.

N images, R regions, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtefactError, CaptionerError, DataError
from pipeline.features.feature_file import PREFETCHED_ROWS, FeatureFile, Features
from pipeline.files import write_json

SCHEMA = 3
INDEX = "index.json"
REMEDY = "run `captioner extract --engine ray` again"
OPEN_SHARDS = PREFETCHED_ROWS
"""Largest number of mapped shards: rows that are requested together can lie in as many. Each mapped shard needs a file
descriptor; processes are usually limited to about a thousand."""


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard of `folder`."""
    return folder / "shards" / f"{number:06d}.h5"


class ShardedRows:
    """Rows (N, R, C) in several files."""

    def __init__(
        self, folder: Path, shape: tuple[int, ...], shard: NDArray[np.int64], place: NDArray[np.int64]
    ) -> None:
        self.shape = shape
        self.shard = shard
        """(N,) number of each row's shard."""
        self._place = place
        """(N,) position of each row in its shard."""
        self._mapped = lru_cache(OPEN_SHARDS)(lambda number: open_shard(shard_path(folder, number)).features)

    def __getitem__(self, row: int) -> Features:
        """Return a row (R, C). Raises `ArtefactError` naming the shard."""
        return self._mapped(int(self.shard[row]))[int(self._place[row])]

    def prefetch(self, rows: Sequence[int]) -> None:
        """Start to read rows from the disk. Returns at once."""
        for row in rows:
            self._mapped(int(self.shard[row])).prefetch([int(self._place[row])])


@dataclass(frozen=True)
class ShardedFeatureFile(FeatureFile):
    """An open folder of shards: image ids in memory, features memory-mapped."""

    features: ShardedRows

    def _reading_order(self, rows: Sequence[int]) -> Sequence[int]:
        """Shard by shard, so that each is mapped once."""
        return [int(place) for place in np.argsort(self.features.shard[list(rows)], kind="stable")]

    def _file(self, row: int) -> Path:
        return shard_path(self.path, int(self.features.shard[row]))

    def _remedy(self, row: int) -> str:
        return f"delete this shard and {REMEDY}"


def open_shard(path: Path) -> FeatureFile:
    """Open a shard. Raises `ArtefactError` naming what is wrong."""
    try:
        return FeatureFile.open(path)
    except CaptionerError as error:
        reason = str(error).removeprefix(f"{path}: ").rpartition(";")[0]
        raise ArtefactError(f"{path}: {reason}; delete it and {REMEDY}") from error


def write_index(folder: Path, shards: int) -> None:
    """Write the index of all `shards` of a folder. Raises `ArtefactError` for one that cannot be read, `DiskError`."""
    digests = [open_shard(shard_path(folder, number)).digest() for number in range(shards)]
    write_json(folder / INDEX, {"schema": SCHEMA, "shards": digests})


def open_folder(folder: Path) -> ShardedFeatureFile:
    """Open a folder of shards.

    Raises `DataError` when its extraction is not complete, `ArtefactError` naming what is wrong with it.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder}: has no {INDEX}, so its extraction is not complete; {REMEDY}")
    try:
        content = json.loads(path.read_bytes())
        digests = list(content["shards"])
        if content["schema"] != SCHEMA or not digests:
            raise ValueError(f"schema {content['schema']} with {len(digests)} shards, this version reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path}: not a readable index of shards: {error}; {REMEDY}") from error
    images: list[str] = []
    crc32 = []
    for number, digest in enumerate(digests):
        shard = open_shard(shard_path(folder, number))
        if shard.digest() != digest:
            raise ArtefactError(f"{shard.path}: not the shard that {INDEX} lists; delete it and {REMEDY}")
        images += shard.images
        crc32.append(shard.crc32)
    order = np.argsort(np.array([image.encode() for image in images], bytes))
    sizes = [len(sums) for sums in crc32]
    rows = ShardedRows(
        folder,
        (len(images), shard.regions, shard.channels),
        np.repeat(np.arange(len(sizes)), sizes)[order],
        np.concatenate([np.arange(size) for size in sizes])[order],
    )
    ids = tuple(images[row] for row in order.tolist())
    return ShardedFeatureFile(folder, shard.spec, ids, rows, np.concatenate(crc32)[order])
