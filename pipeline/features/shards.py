"""A folder of shards: features too many for one file, read as if they were in one.

    index.parquet        one row per picture, in the order of the ids' bytes: image, shard, row, crc32
                         metadata `captioner`: schema, spec, shape (R, C), and of each shard file, rows, bytes, digest
    shards/000000.h5     a features.h5 of the pictures of one stretch of the manifest

The index is made from whole shards only, and each is compared with it before a row is read: one that is missing,
shorter or not the one that was indexed is refused by name. (HDF5's virtual datasets give zeros for a missing file.)
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, ParamsError
from pipeline.features.feature_file import FeatureFile, Rows
from pipeline.files import replacing

SCHEMA = 1
INDEX = "index.parquet"
SHARDS = "shards"
REMEDY = "run `captioner extract --engine ray` again, which makes it anew"
_COLUMNS = ("image", "shard", "row", "crc32")
_METADATA = b"captioner"
_OPEN = 64
"""Shards that are mapped at a time: each holds a file descriptor, of which a process has about a thousand."""


@dataclass(frozen=True)
class Shard:
    """One file of the folder, as the index lists it."""

    file: str
    rows: int
    bytes: int
    digest: str
    """Of its spec, ids and checksums."""


class ShardedRows:
    """Rows (N, R, C) in several files, which are opened when they are first needed."""

    def __init__(
        self,
        folder: Path,
        spec: EncoderSpec,
        shards: Sequence[Shard],
        shape: tuple[int, int, int],
        shard: NDArray[np.int32],
        row: NDArray[np.int64],
    ) -> None:
        self.shape = shape
        self._folder = folder
        self._spec = spec
        self._shards = shards
        self._shard = shard
        self._row = row
        self._open: OrderedDict[int, FeatureFile] = OrderedDict()

    def __getitem__(self, row: int) -> Rows:
        """Row (R, C). Raises `ArtefactError` naming the shard."""
        return self._opened(int(self._shard[row])).features[int(self._row[row])]

    def path(self, row: int) -> Path:
        return self._folder / self._shards[int(self._shard[row])].file

    def reading_order(self, rows: Sequence[int]) -> list[int]:
        """Shard after shard, so that each is opened once."""
        numbers = np.asarray(rows, np.int64)
        if not len(numbers) or numbers.min() < 0:
            return list(range(len(rows)))
        return [int(place) for place in np.lexsort((self._row[numbers], self._shard[numbers]))]

    def _opened(self, number: int) -> FeatureFile:
        found = self._open.pop(number, None)
        if found is None:
            listed = self._shards[number]
            found = open_shard(self._folder / listed.file, self._spec)
            if found.digest() != listed.digest:
                raise ArtefactError(f"{found.path}: not the shard that {INDEX} lists; delete it and {REMEDY}")
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)
        self._open[number] = found
        return found


@dataclass(frozen=True)
class ShardedFeatureFile(FeatureFile):
    """An open folder of shards: ids in memory, rows mapped."""

    features: ShardedRows

    def _reading_order(self, rows: Sequence[int]) -> Iterable[int]:
        return self.features.reading_order(rows)

    def _file(self, row: int) -> Path:
        return self.features.path(row)

    def _remedy(self, row: int) -> str:
        return f"delete this shard and {REMEDY}"


def open_shard(path: Path, spec: EncoderSpec) -> FeatureFile:
    """Raises `ArtefactError` naming what is wrong."""
    if not path.is_file():
        raise ArtefactError(f"{path}: missing, though the index lists it; {REMEDY}")
    shard = FeatureFile.open(path)
    if shard.spec != spec:
        differences = "; ".join(shard.spec.differences(spec))
        raise ArtefactError(f"{path}: made by another encoder ({differences}); delete it and {REMEDY}")
    return shard


def write_index(folder: Path, spec: EncoderSpec, shape: tuple[int, int], shards: Iterable[Path]) -> int:
    """Index whole shards of `folder`; the number of rows. Raises `ArtefactError`, `DiskError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed: list[Shard] = []
    tables = [_table([], 0, np.empty(0, np.uint32))]
    for path in shards:
        cache = open_shard(path, spec)
        tables.append(_table(cache.images, len(listed), cache.crc32))
        file = path.relative_to(folder).as_posix()
        listed.append(Shard(file, len(cache.images), path.stat().st_size, cache.digest()))
    table = pa.concat_tables(tables).sort_by("image")
    content = {
        "schema": SCHEMA,
        "spec": json.loads(spec.to_json()),
        "shape": list(shape),
        "shards": [asdict(shard) for shard in listed],
    }
    table = table.replace_schema_metadata({_METADATA: json.dumps(content, sort_keys=True)})
    with replacing(folder / INDEX) as beside:
        pq.write_table(table, beside, write_page_checksum=True)
    return int(table.num_rows)


def open_folder(folder: Path) -> ShardedFeatureFile:
    """Raises `DataError` when the folder is not finished, `ArtefactError` naming what is wrong with it."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder}: has no {INDEX}, so its extraction has not ended; run the same `captioner extract`")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ParamsError(
            f"{folder}: a folder of shards is read with pyarrow; run `pip install 'captioner[ray]'`"
        ) from error
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        content = json.loads((table.schema.metadata or {})[_METADATA])
        if content["schema"] != SCHEMA:
            raise ArtefactError(f"{path}: schema {content['schema']}, this program reads {SCHEMA}; {REMEDY}")
        spec = EncoderSpec.from_json(json.dumps(content["spec"]))
        shards = [Shard(**listed) for listed in content["shards"]]
        regions, channels = (int(value) for value in content["shape"])
        if table.column_names != list(_COLUMNS):
            raise ArtefactError(f"{path}: the columns are {table.column_names}, expected {list(_COLUMNS)}; {REMEDY}")
        images: tuple[str, ...] = tuple(table["image"].to_pylist())
        shard, row, crc32 = (table[name].to_numpy() for name in _COLUMNS[1:])
        _check_rows(path, images, shards, shard, row)
    except ArtefactError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ArtefactError(f"{path}: not a readable index of shards: {error}; {REMEDY}") from error
    for listed in shards:
        _check_file(folder, listed)
    rows = ShardedRows(folder, spec, shards, (len(images), regions, channels), shard, row)
    return ShardedFeatureFile(folder, spec, images, rows, crc32)


def _check_rows(
    path: Path, images: Sequence[str], shards: Sequence[Shard], shard: NDArray[np.int32], row: NDArray[np.int64]
) -> None:
    if any(first.encode() >= second.encode() for first, second in pairwise(images)):
        raise ArtefactError(f"{path}: the ids are not in order; {REMEDY}")
    counts = np.array([listed.rows for listed in shards] or [0])
    if len(shard) and (
        shard.min() < 0 or shard.max() >= len(shards) or row.min() < 0 or bool((row >= counts[shard]).any())
    ):
        raise ArtefactError(f"{path}: places rows where no shard has any; {REMEDY}")
    if int(counts.sum()) != len(images):
        raise ArtefactError(f"{path}: {len(images)} ids, but {int(counts.sum())} rows in the shards; {REMEDY}")


def _check_file(folder: Path, listed: Shard) -> None:
    if Path(listed.file).parts[:-1] != (SHARDS,):  # an index from elsewhere must not lead out of its folder
        raise ArtefactError(f"{folder / INDEX}: lists {listed.file}, which is not in {SHARDS}/; {REMEDY}")
    path = folder / listed.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error.strerror}, though {INDEX} lists it; {REMEDY}") from error
    if size != listed.bytes:
        raise ArtefactError(
            f"{path}: {size:,} bytes, {INDEX} says {listed.bytes:,}: truncated or not the same file; "
            f"delete it and {REMEDY}"
        )


def _table(images: Sequence[str], shard: int, crc32: NDArray[np.uint32]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "image": pa.array(images, pa.large_string()),
            "shard": pa.array(np.full(len(images), shard, np.int32)),
            "row": pa.array(np.arange(len(images), dtype=np.int64)),
            "crc32": pa.array(np.asarray(crc32, np.uint32)),
        }
    )
