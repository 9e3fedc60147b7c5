"""The feature store: rows that were computed once, kept outside every output, keyed by the picture's content.

One folder per EncoderSpec and engine (the torch and the processor that computed: other ones give other last bits); in
it one shard per run, made for exactly the pictures that were missing:

    header   4096 bytes   JSON: schema, digest, count, shape (R, C)
    keys     count x 32   sha256 of each picture's bytes
    marks    count x 8    crc32 of the row, then DONE; zeros while the row is not there
    rows     count x R x C float16, from the next multiple of 4096

The file has its full size before it gets its name; rows are written and synced before their marks. Whatever moment a
run is killed at, the rows that are marked are right, and the next run computes only the others.

In memory a row costs some dozens of bytes: keys are arrays, no object stands for a picture.
"""

import errno
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
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

Keys = NDArray[np.bytes_]
"""(n,) the sha256 of pictures, 32 bytes each. One of them alone has to be asked for as `keys[n : n + 1]`: numpy takes
zeros off the end of what it hands out."""
_KEY = np.dtype("S32")


def keys_of(digests: Iterable[str]) -> Keys:
    """From hex digests."""
    content = bytearray()
    for digest in digests:
        content += bytes.fromhex(digest)
    return np.frombuffer(content, _KEY)


def first_occurrences(keys: Keys) -> Keys:
    """Without what occurs again."""
    places = np.unique(keys, return_index=True)[1]
    return keys if len(places) == len(keys) else keys[np.sort(places)]


class Shard:
    """One file of rows, as laid out above."""

    def __init__(self, path: Path, keys: Keys, marks: NDArray[Any], shape: tuple[int, int]) -> None:
        self.path = path
        self.keys = keys
        self.marks = marks
        self.shape = shape
        self.row_bytes = shape[0] * shape[1] * 2
        self.rows_at = _rows_offset(len(keys))

    @classmethod
    def create(cls, path: Path, digest: str, keys: Keys, shape: tuple[int, int]) -> "Shard":
        """Raises `DiskError` when there is no room for all rows."""
        header = {"schema": SCHEMA, "digest": digest, "count": len(keys), "shape": shape}
        with replacing(path) as beside, beside.open("rb+", buffering=0) as file:
            allocate(file, beside, _rows_offset(len(keys)) + len(keys) * shape[0] * shape[1] * 2)
            write_at(file, 0, json.dumps(header, sort_keys=True).encode().ljust(_PAGE))
            write_at(file, _PAGE, keys.tobytes())
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
                keys = np.frombuffer(file.read(count * _KEY.itemsize), _KEY)
                marks = np.frombuffer(file.read(count * _MARK.itemsize), _MARK)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(path, keys, marks.copy(), (regions, channels))

    def done(self) -> NDArray[np.int64]:
        """The places of the rows that were written whole."""
        return np.flatnonzero(self.marks["done"] == _DONE)

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

    def add(self, places: Sequence[int], rows: Rows) -> None:
        """Write rows (n, R, C); they are durable within about a second. Raises `DiskError`."""
        with self._explained():
            for place, row in zip(places, rows, strict=True):
                content = row.tobytes()
                write_at(self._file, self.shard.rows_at + place * self.shard.row_bytes, content)
                self.shard.marks[place] = (zlib.crc32(content), _DONE)
        self._unmarked += places
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make durable what was added. Raises `DiskError`."""
        places, self._unmarked = self._unmarked, []
        if places:
            with self._explained():
                sync(self._file)
                for place in places:
                    marks_at = _PAGE + len(self.shard.keys) * _KEY.itemsize
                    write_at(self._file, marks_at + place * _MARK.itemsize, self.shard.marks[place].tobytes())
                sync(self._file)
        self._synced = time.monotonic()

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
        self._shards: list[Shard] = []
        self._index: _Index | None = None
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

        lock = FileLock(self.folder / "lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise DiskError(f"{self.folder}: another run is filling this store; wait until it ends") from error
        except OSError as error:
            raise DiskError(f"{self.folder}: cannot be locked: {error.strerror or error}") from error
        try:
            self._remove_leftovers()
            if not (self.folder / "spec.json").is_file():
                write_json(self.folder / "spec.json", self._content)
            self._read_shards()
            yield
        finally:
            lock.release()

    def _remove_leftovers(self) -> None:
        """What a killed run had not finished making."""
        for path in self.folder.glob(".*.*"):
            with suppress(OSError):
                path.unlink()

    def _read_shards(self) -> None:
        found = (Shard.open(path, self._digest) for path in shards_of(self.folder))
        self._shards = [shard for shard in found if shard is not None and shard.shape == self.shape]
        self._index = None

    def new_shard(self, keys: Keys) -> ShardWriter:
        """A shard with room for exactly `keys`; `refresh` finds what is written there. Raises `DiskError`."""
        number = 1 + max((int(path.stem) for path in shards_of(self.folder)), default=0)
        shard = Shard.create(self.folder / f"{number:06d}.shard", self._digest, keys, self.shape)
        self._shards.append(shard)
        return ShardWriter(shard)

    def refresh(self) -> None:
        """Find the rows that were written since."""
        self._index = None

    def forget(self, keys: Keys) -> None:
        """Rows that turned out to be damaged are to be computed again."""
        for shard in self._shards:
            shard.marks["done"][np.isin(shard.keys, keys)] = 0
        self._index = None

    def keys(self) -> Keys:
        """Of all rows, in the order in which they were computed."""
        index = self._indexed()
        return index.keys[np.lexsort((index.places, index.shards))]

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of `keys` have a row."""
        held: NDArray[np.bool_] = self._indexed().find(keys) >= 0
        return held

    def read(self, keys: Keys, rows: Rows) -> tuple[NDArray[np.uint32], Keys]:
        """Fill `rows` (n, R, C); the crc32 of each, and the keys whose row is not what was written.

        Each of `keys` must have a row. Threads may share it.
        """
        index = self._indexed()
        found = index.find(keys)
        shards, places = index.shards[found], index.places[found]
        sums = np.empty(len(keys), np.uint32)
        ends = np.flatnonzero((np.diff(shards) != 0) | (np.diff(places) != 1)) + 1
        for start, end in pairwise([0, *ends.tolist(), len(keys)]):  # stretches that lie behind each other in one file
            shard, place = self._shards[int(shards[start])], int(places[start])
            sums[start:end] = shard.marks["crc32"][place : place + end - start]
            with suppress(OSError, EOFError):
                shard.read(place, rows[start:end])
        wrong = [zlib.crc32(row.data) != crc for row, crc in zip(rows, sums.tolist(), strict=True)]
        return sums, keys[np.array(wrong, bool)]

    def damaged(self, keys: Keys) -> Keys:
        """Those of `keys` whose row is not what was written; all of them are read."""
        row = np.empty((1, *self.shape), np.float16)
        wrong = [self.read(keys[number : number + 1], row)[1].size > 0 for number in range(len(keys))]
        found: Keys = keys[np.array(wrong, bool)]
        return found

    def _indexed(self) -> "_Index":
        if self._index is None:
            self._index = _Index(self._shards)
        return self._index


class _Index:
    """Where the newest row of each picture is."""

    keys: Keys
    """Sorted."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        places = [shard.done() for shard in shards]
        keys = _joined([shard.keys[done] for shard, done in zip(shards, places, strict=True)], _KEY)
        order = np.argsort(keys, kind="stable")
        newest = np.ones(len(keys), bool)
        newest[:-1] = keys[order[1:]] != keys[order[:-1]]
        order = order[newest]
        self.keys = keys[order]
        self.shards = np.repeat(np.arange(len(shards), dtype=np.int32), [len(done) for done in places])[order]
        self.places = _joined(places, np.dtype(np.int64))[order]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The number of each key's row here; -1 for those without one."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        number = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[number] == keys, number, -1)


def _joined(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def shards_of(folder: Path) -> list[Path]:
    """The finished shards in a folder of the store, oldest first."""
    return sorted(path for path in folder.glob("*.shard") if path.stem.isdigit())


def _rows_offset(count: int) -> int:
    return -(-(_PAGE + count * (_KEY.itemsize + _MARK.itemsize)) // _PAGE) * _PAGE
