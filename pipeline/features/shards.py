"""A folder of shards: features of more images than one file should contain, read like one features.h5.

    index.parquet      a row per image, in byte order of the ids: image, shard, crc32
                       metadata `captioner`: schema, spec, shape (R, C), number of shards
    shards/000000.h5   a features.h5 with the images of one part of the manifest

A shard is opened when the first of its rows is read. Its spec, ids and checksums must be those of the index, so that
a shard that is missing, truncated or from another folder raises an error naming it. (HDF5's virtual datasets return
zeros for a missing file.)

N images, R regions, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError, DataError, ParamsError
from pipeline.features.feature_file import PREFETCHED_ROWS, FeatureFile, Features
from pipeline.files import replacing

SCHEMA = 2
INDEX = "index.parquet"
REMEDY = "run `captioner extract --engine ray` again"
METADATA = b"captioner"
OPEN_SHARDS = PREFETCHED_ROWS
"""Largest number of open shards: rows that are requested together can lie in as many. Each open shard needs a file
descriptor; processes are usually limited to about a thousand."""
_COLUMNS = ["image", "shard", "crc32"]


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard of `folder`."""
    return folder / "shards" / f"{number:06d}.h5"


class ShardedRows:
    """Rows (N, R, C) in several files."""

    def __init__(
        self,
        folder: Path,
        spec: EncoderSpec,
        images: Sequence[str],
        shape: tuple[int, int],
        shard: NDArray[np.int32],
        crc32: NDArray[np.uint32],
    ) -> None:
        self.shape = (len(images), *shape)
        self.shard = shard
        """(N,) number of each row's shard."""
        self._folder = folder
        self._spec = spec
        self._images = images
        self._crc32 = crc32
        self._shard = lru_cache(OPEN_SHARDS)(self._open)

    def __getitem__(self, row: int) -> Features:
        """Return a row (R, C). Raises `ArtefactError` naming the shard."""
        shard, rows = self._shard(int(self.shard[row]))
        return shard.features[int(np.searchsorted(rows, row))]

    def prefetch(self, rows: Sequence[int]) -> None:
        """Start to read rows from the disk. Returns at once."""
        for row in rows:
            shard, numbers = self._shard(int(self.shard[row]))
            shard.features.prefetch([int(np.searchsorted(numbers, row))])

    def path(self, row: int) -> Path:
        """Return the path of a row's shard."""
        return shard_path(self._folder, int(self.shard[row]))

    def _open(self, number: int) -> tuple[FeatureFile, NDArray[np.int64]]:
        """A shard and its rows in the index, both in byte order of the ids."""
        path = shard_path(self._folder, number)
        found = open_shard(path, self._spec)
        rows = np.flatnonzero(self.shard == number)
        if (
            found.features.shape[1:] != self.shape[1:]
            or found.images != tuple(self._images[row] for row in rows.tolist())
            or not np.array_equal(found.crc32, self._crc32[rows])
        ):
            raise ArtefactError(f"{path}: not the shard that {INDEX} lists; delete it and {REMEDY}")
        return found, rows


@dataclass(frozen=True)
class ShardedFeatureFile(FeatureFile):
    """An open folder of shards: image ids in memory, features memory-mapped."""

    features: ShardedRows

    def _reading_order(self, rows: Sequence[int]) -> Sequence[int]:
        """Shard by shard, so that each is opened once."""
        return [int(place) for place in np.argsort(self.features.shard[list(rows)], kind="stable")]

    def _file(self, row: int) -> Path:
        return self.features.path(row)

    def _remedy(self, row: int) -> str:
        return f"delete this shard and {REMEDY}"


def open_shard(path: Path, spec: EncoderSpec) -> FeatureFile:
    """Open a shard that the encoder of `spec` made. Raises `ArtefactError` naming what is wrong."""
    try:
        shard = FeatureFile.open(path)
    except CaptionerError as error:
        reason = str(error).removeprefix(f"{path}: ").rpartition(";")[0]
        raise ArtefactError(f"{path}: {reason}; delete it and {REMEDY}") from error
    if shard.spec != spec:
        differences = "; ".join(shard.spec.differences(spec))
        raise ArtefactError(f"{path}: made by another encoder ({differences}); delete it and {REMEDY}")
    return shard


def write_index(folder: Path, spec: EncoderSpec, shape: tuple[int, int], shards: int) -> None:
    """Write the index of all `shards` of a folder.

    Raises `ArtefactError` for a shard that cannot be read, `DiskError`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for number in range(shards):
        shard = open_shard(shard_path(folder, number), spec)
        columns = [
            pa.array(shard.images, pa.large_string()),
            pa.array(np.full(len(shard.images), number, np.int32)),
            pa.array(np.asarray(shard.crc32, np.uint32)),
        ]
        tables.append(pa.table(columns, _COLUMNS))
    table = pa.concat_tables(tables).sort_by("image")
    content = {"schema": SCHEMA, "spec": json.loads(spec.to_json()), "shape": list(shape), "shards": shards}
    table = table.replace_schema_metadata({METADATA: json.dumps(content, sort_keys=True)})
    with replacing(folder / INDEX) as beside:
        pq.write_table(table, beside, write_page_checksum=True)


def open_folder(folder: Path) -> ShardedFeatureFile:
    """Open a folder of shards.

    Raises `DataError` when its extraction is not complete, `ArtefactError` naming what is wrong with it.
    """
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder}: has no {INDEX}, so its extraction is not complete; {REMEDY}")
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ParamsError(
            f"{folder}: reading shards needs pyarrow; run `pip install -e '.[ray]'` in the checkout"
        ) from error
    try:
        return _open_folder(folder, path)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ArtefactError(f"{path}: not a readable index of shards: {error}; {REMEDY}") from error


def _open_folder(folder: Path, path: Path) -> ShardedFeatureFile:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    content: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA])
    if content["schema"] != SCHEMA:
        raise ArtefactError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}; {REMEDY}")
    spec = EncoderSpec.from_json(json.dumps(content["spec"]))
    regions, channels = (int(side) for side in content["shape"])
    images, shard, crc32 = (table[name] for name in _COLUMNS)
    ids: tuple[str, ...] = tuple(images.to_pylist())
    numbers: NDArray[np.int32] = shard.to_numpy()
    sums: NDArray[np.uint32] = crc32.to_numpy()
    if any(first.encode() >= second.encode() for first, second in pairwise(ids)):
        raise ArtefactError(f"{path}: the image ids are not in order; {REMEDY}")
    if len(ids) and not 0 <= numbers.min() <= numbers.max() < content["shards"]:
        raise ArtefactError(f"{path}: lists more than its {content['shards']} shards; {REMEDY}")
    rows = ShardedRows(folder, spec, ids, (regions, channels), numbers, sums)
    return ShardedFeatureFile(folder, spec, ids, rows, sums)
