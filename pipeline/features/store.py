"""The feature store: rows that were computed once, kept outside every output, keyed by the picture's content.

One folder per EncoderSpec digest; in it one shard per run, made for exactly the pictures that were missing:

    header   4096 bytes   JSON: schema, spec digest, count, shape (R, C)
    keys     count x 32   sha256 of each picture's bytes
    marks    count x 8    crc32 of the row, then DONE; zeros while the row is not there
    rows     count x R x C float16, from the next multiple of 4096

The file has its full size before it gets its name; rows are written and synced before their marks. Whatever moment a
run is killed at, the rows that are marked are right, and the next run computes only the others.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DiskError
from pipeline.features.spec import EncoderSpec
from pipeline.files import replacing

SCHEMA = 1
_PAGE = 4096
_DONE = 0x454E4F44
_MARK = np.dtype([("crc32", "<u4"), ("done", "<u4")])

Rows = NDArray[np.float16]


class Shard:
    """One file of rows, as laid out above."""

    def __init__(self, path: Path, keys: Sequence[str], marks: NDArray[Any], shape: tuple[int, int]) -> None:
        self.path = path
        self.keys = keys
        self.marks = marks
        self.shape = shape
        self._row_bytes = shape[0] * shape[1] * 2
        self._rows_at = _rows_offset(len(keys))

    @classmethod
    def create(cls, path: Path, digest: str, keys: Sequence[str], shape: tuple[int, int]) -> "Shard":
        """Raises `DiskError` when there is no room for all rows."""
        header = {"schema": SCHEMA, "spec": digest, "count": len(keys), "shape": shape}
        size = _rows_offset(len(keys)) + len(keys) * shape[0] * shape[1] * 2
        with replacing(path) as beside, beside.open("rb+") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            file.write(json.dumps(header, sort_keys=True).encode().ljust(_PAGE))
            file.write(b"".join(bytes.fromhex(key) for key in keys))
        return cls(path, keys, np.zeros(len(keys), _MARK), shape)

    @classmethod
    def open(cls, path: Path, digest: str) -> "Shard | None":
        """None when the file is not a whole shard of this spec: its rows will be computed again."""
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(_PAGE))
                count, (regions, channels) = int(header["count"]), header["shape"]
                size = _rows_offset(count) + count * regions * channels * 2
                if header["schema"] != SCHEMA or header["spec"] != digest or path.stat().st_size != size:
                    return None
                raw = file.read(count * 32)
                marks = np.frombuffer(file.read(count * _MARK.itemsize), _MARK)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        keys = [raw[place : place + 32].hex() for place in range(0, len(raw), 32)]
        return cls(path, keys, marks.copy(), (regions, channels))

    def done(self) -> Iterator[tuple[str, int]]:
        """The key and place of each row that was written whole."""
        for place in np.flatnonzero(self.marks["done"] == _DONE):
            yield self.keys[int(place)], int(place)

    def read(self, place: int) -> Rows | None:
        """The row (R, C), or None when its bytes are not those that were written."""
        with self.path.open("rb") as file:
            file.seek(self._rows_at + place * self._row_bytes)
            content = file.read(self._row_bytes)
        if zlib.crc32(content) != self.marks["crc32"][place]:
            return None
        return np.frombuffer(content, np.float16).reshape(self.shape)

    def write(self, places: Sequence[int], rows: Rows) -> None:
        """Rows first, synced, then their marks, synced. Raises `DiskError`."""
        try:
            with self.path.open("rb+", buffering=0) as file:
                for place, row in zip(places, rows, strict=True):
                    file.seek(self._rows_at + place * self._row_bytes)
                    file.write(row.tobytes())
                    self.marks[place] = (zlib.crc32(row.tobytes()), _DONE)
                _sync(file.fileno())
                for place in places:
                    file.seek(_PAGE + len(self.keys) * 32 + place * _MARK.itemsize)
                    file.write(self.marks[place].tobytes())
                _sync(file.fileno())
        except OSError as error:
            raise DiskError(
                f"{self.path}: cannot be written: {error.strerror}; run again to go on from here"
            ) from error


class FeatureStore:
    """The shards of one spec below `root`, and where each picture's row is."""

    def __init__(self, root: Path, spec: EncoderSpec, shape: tuple[int, int]) -> None:
        self.folder = root / spec.digest
        self.shape = shape
        self._digest = spec.digest
        self._where: dict[str, tuple[Shard, int]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{self.folder}: cannot be made: {error.strerror}; set CAPTIONER_CACHE to a folder of yours"
            ) from error
        with replacing(self.folder / "spec.json") as beside:
            beside.write_text(spec.to_json() + "\n")
        for path in sorted(self.folder.glob("*.shard")):
            shard = Shard.open(path, self._digest)
            if shard is not None and shard.shape == shape:
                self._where.update((key, (shard, place)) for key, place in shard.done())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, also when dvc was killed and its child lives on. Raises `DiskError` after a minute."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / "lock", timeout=60)
        try:
            with lock:
                yield
        except Timeout as error:
            raise DiskError(f"{self.folder}: another run is filling this store; wait until it ends") from error

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without a sound row, each once, in the order given. Every known row is read and checked."""
        absent = []
        for key in dict.fromkeys(keys):
            if key not in self._where:
                absent.append(key)
            elif self._read(key) is None:
                del self._where[key]
                absent.append(key)
        return absent

    def new_shard(self, keys: Sequence[str]) -> Shard:
        """A shard with room for exactly `keys`. Raises `DiskError`."""
        number = 1 + max((int(path.stem) for path in self.folder.glob("*.shard") if path.stem.isdigit()), default=0)
        return Shard.create(self.folder / f"{number:06d}.shard", self._digest, keys, self.shape)

    def add(self, shard: Shard, places: Sequence[int], rows: Rows) -> None:
        """Keep rows (n, R, C) at `places` of `shard`, durable when the call returns."""
        shard.write(places, rows)
        self._where.update((shard.keys[place], (shard, place)) for place in places)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __getitem__(self, key: str) -> Rows:
        row = self._read(key)
        if row is None:
            raise DiskError(f"{self.folder}: the row of {key[:12]} changed while it was used; run again")
        return row

    def _read(self, key: str) -> Rows | None:
        shard, place = self._where[key]
        return shard.read(place)


def _rows_offset(count: int) -> int:
    return -(-(_PAGE + count * (32 + _MARK.itemsize)) // _PAGE) * _PAGE


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)
