"""The feature store: rows that were computed once, kept outside every output, keyed by the picture's content.

One folder per EncoderSpec and engine (the torch and the processor that computed: other ones give other last bits); in
it one shard per run, made for exactly the pictures that were missing:

    header   4096 bytes   JSON: schema, digest, count, shape (R, C)
    keys     count x 32   sha256 of each picture's bytes
    marks    count x 8    crc32 of the row, then DONE; zeros while the row is not there
    rows     count x R x C float16, from the next multiple of 4096

The file has its full size before it gets its name; rows are written and synced before their marks. Whatever moment a
run is killed at, the rows that are marked are right, and the next run computes only the others.
"""

import errno
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DiskError
from pipeline.features.spec import EncoderSpec
from pipeline.files import allocate, no_space, replacing, sync, write_at, write_json

SCHEMA = 1
LOCK_SECONDS = 60.0
SYNC_SECONDS = 1.0
"""What a killed run can lose."""
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
        self.row_bytes = shape[0] * shape[1] * 2
        self.rows_at = _rows_offset(len(keys))

    @classmethod
    def create(cls, path: Path, digest: str, keys: Sequence[str], shape: tuple[int, int]) -> "Shard":
        """Raises `DiskError` when there is no room for all rows."""
        header = {"schema": SCHEMA, "digest": digest, "count": len(keys), "shape": shape}
        with replacing(path) as beside, beside.open("rb+", buffering=0) as file:
            allocate(file, beside, _rows_offset(len(keys)) + len(keys) * shape[0] * shape[1] * 2)
            write_at(file, 0, json.dumps(header, sort_keys=True).encode().ljust(_PAGE))
            write_at(file, _PAGE, b"".join(bytes.fromhex(key) for key in keys))
        return cls(path, keys, np.zeros(len(keys), _MARK), shape)

    @classmethod
    def open(cls, path: Path, digest: str) -> "Shard | None":
        """None when the file is not a whole shard of this store: its rows will be computed again."""
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(_PAGE))
                count, (regions, channels) = int(header["count"]), header["shape"]
                size = _rows_offset(count) + count * regions * channels * 2
                if header["schema"] != SCHEMA or header["digest"] != digest or path.stat().st_size != size:
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

    def read(self, place: int, out: Rows) -> None:
        """Fill `out` (n, R, C) with the rows from `place` on. Raises `OSError`, `EOFError`."""
        view = memoryview(out.data).cast("B")
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.rows_at + place * self.row_bytes)
            while view:
                count = file.readinto(view)
                if not count:
                    raise EOFError
                view = view[count:]

    def is_sound(self, place: int, out: Rows) -> bool:
        """Fill `out` (1, R, C) with one row; whether it is what was written."""
        try:
            self.read(place, out)
        except (OSError, EOFError):
            return False
        return bool(zlib.crc32(out.data) == self.marks["crc32"][place])


class ShardWriter:
    """Fills a new shard: rows first, synced, then their marks, synced; about once a second and at the end."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._file = shard.path.open("rb+", buffering=0)
        self._unmarked: list[int] = []
        self._synced = time.monotonic()

    def add(self, places: Sequence[int], rows: Rows) -> list[int]:
        """Write rows (n, R, C); the places whose rows are durable now. Raises `DiskError`."""
        with self._explained():
            for place, row in zip(places, rows, strict=True):
                content = row.tobytes()
                write_at(self._file, self.shard.rows_at + place * self.shard.row_bytes, content)
                self.shard.marks[place] = (zlib.crc32(content), _DONE)
        self._unmarked += places
        return self.flush() if time.monotonic() - self._synced >= SYNC_SECONDS else []

    def flush(self) -> list[int]:
        """Make durable what was added; the places concerned. Raises `DiskError`."""
        places, self._unmarked = self._unmarked, []
        if places:
            with self._explained():
                sync(self._file)
                for place in places:
                    marks_at = _PAGE + len(self.shard.keys) * 32
                    write_at(self._file, marks_at + place * _MARK.itemsize, self.shard.marks[place].tobytes())
                sync(self._file)
        self._synced = time.monotonic()
        return places

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            left = int((self.shard.marks["done"] != _DONE).sum()) * self.shard.row_bytes
            reason = no_space(self.shard.path, left) if error.errno == errno.ENOSPC else error.strerror
            raise DiskError(
                f"{self.shard.path}: cannot be written: {reason}; what was computed is kept, run again to go on"
            ) from error


class FeatureStore:
    """The shards of one spec and engine below `root`, and where each picture's row is."""

    def __init__(self, root: Path, spec: EncoderSpec, engine: str, shape: tuple[int, int]) -> None:
        content = {"engine": engine, "spec": json.loads(spec.to_json())}
        self._digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.folder = root / self._digest
        self.shape = shape
        self._where: dict[str, tuple[Shard, int]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{self.folder}: cannot be made: {error.strerror}; set CAPTIONER_CACHE to a folder of yours"
            ) from error
        self._content = content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, also when dvc was killed and its child lives on; then reads what is there.

        Raises `DiskError` after a minute.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / "lock", timeout=LOCK_SECONDS):
                self._remove_leftovers()
                if not (self.folder / "spec.json").is_file():
                    write_json(self.folder / "spec.json", self._content)
                self._read_shards()
                yield
        except Timeout as error:
            raise DiskError(f"{self.folder}: another run is filling this store; wait until it ends") from error
        except OSError as error:
            raise DiskError(f"{self.folder}: cannot be locked: {error.strerror or error}") from error

    def _remove_leftovers(self) -> None:
        """What a killed run had not finished making."""
        for path in self.folder.glob(".*.*"):
            with suppress(OSError):
                path.unlink()

    def _read_shards(self) -> None:
        for path in shards_of(self.folder):
            shard = Shard.open(path, self._digest)
            if shard is not None and shard.shape == self.shape:
                self._where.update((key, (shard, place)) for key, place in shard.done())

    def new_shard(self, keys: Sequence[str]) -> ShardWriter:
        """A shard with room for exactly `keys`. Raises `DiskError`."""
        number = 1 + max((int(path.stem) for path in shards_of(self.folder)), default=0)
        return ShardWriter(Shard.create(self.folder / f"{number:06d}.shard", self._digest, keys, self.shape))

    def learn(self, shard: Shard, places: Sequence[int]) -> None:
        """Rows that are durable are found from now on."""
        self._where.update((shard.keys[place], (shard, place)) for place in places)

    def forget(self, keys: Sequence[str]) -> None:
        """Rows that turned out to be damaged are to be computed again."""
        for key in keys:
            del self._where[key]

    def keys(self) -> list[str]:
        """Of all rows, in the order in which they were computed."""
        return list(self._where)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def read(self, keys: Sequence[str], rows: Rows) -> tuple[NDArray[np.uint32], list[str]]:
        """Fill `rows` (n, R, C); the crc32 of each, and the keys whose row is not what was written.

        Threads may share it.
        """
        where = [self._where[key] for key in keys]
        sums = np.array([shard.marks["crc32"][place] for shard, place in where], np.uint32)
        for start, end in _runs(where):
            shard, place = where[start]
            with suppress(OSError, EOFError):
                shard.read(place, rows[start:end])
        damaged = [key for key, row, crc in zip(keys, rows, sums, strict=True) if zlib.crc32(row.data) != crc]
        return sums, damaged

    def damaged(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` whose row is not what was written; all of them are read."""
        row = np.empty((1, *self.shape), np.float16)
        return [key for key in keys if self.read([key], row)[1]]


def shards_of(folder: Path) -> list[Path]:
    """The finished shards in a folder of the store, oldest first."""
    return sorted(path for path in folder.glob("*.shard") if path.stem.isdigit())


def _runs(where: Sequence[tuple[Shard, int]]) -> Iterator[tuple[int, int]]:
    """Stretches of rows that lie behind each other in one file: each is one read."""
    start = 0
    for end in range(1, len(where) + 1):
        if end < len(where) and where[end][0] is where[end - 1][0] and where[end][1] == where[end - 1][1] + 1:
            continue
        yield start, end
        start = end


def _rows_offset(count: int) -> int:
    return -(-(_PAGE + count * (32 + _MARK.itemsize)) // _PAGE) * _PAGE
