"""A segment of the feature store: the rows that one run computed, in one file.

    header   4096 bytes   JSON: schema, digest, count, shape (R, C)
    keys     count x 32   sha256 of each picture's bytes
    marks    count x 8    crc32 of the row, then DONE; zeros while the row is not there
    rows     count x R x C float16, from the next multiple of 4096

The file has its full size before it gets its name; rows are written and synced before their marks. Whatever moment a
run is killed at, the rows that are marked are right, and the next run computes only the others.
"""

import errno
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DiskError
from pipeline.features.feature_file import Rows
from pipeline.files import allocate, no_space, replacing, sync, write_at

SCHEMA = 1
SYNC_SECONDS = 1.0
"""What a killed run can lose."""
_PAGE = 4096
_DONE = 0x454E4F44
_MARK = np.dtype([("crc32", "<u4"), ("done", "<u4")])

Keys = NDArray[np.bytes_]
"""(n,) the sha256 of pictures, 32 bytes each. One of them alone has to be asked for as `keys[n : n + 1]`: numpy takes
zeros off the end of what it hands out."""
KEY = np.dtype("S32")


class Segment:
    """One file of rows, as laid out above."""

    def __init__(self, path: Path, keys: Keys, marks: NDArray[Any], shape: tuple[int, int]) -> None:
        self.path = path
        self.keys = keys
        self.marks = marks
        self.shape = shape
        self.row_bytes = shape[0] * shape[1] * 2
        self.rows_at = _rows_offset(len(keys))

    @classmethod
    def create(cls, path: Path, digest: str, keys: Keys, shape: tuple[int, int]) -> "Segment":
        """Raises `DiskError` when there is no room for all rows."""
        header = {"schema": SCHEMA, "digest": digest, "count": len(keys), "shape": shape}
        with replacing(path) as beside, beside.open("rb+", buffering=0) as file:
            allocate(file, beside, _rows_offset(len(keys)) + len(keys) * shape[0] * shape[1] * 2)
            write_at(file, 0, json.dumps(header, sort_keys=True).encode().ljust(_PAGE))
            write_at(file, _PAGE, keys.tobytes())
        return cls(path, keys, np.zeros(len(keys), _MARK), shape)

    @classmethod
    def open(cls, path: Path, digest: str) -> "Segment | None":
        """None when the file is not a whole segment of this store: its rows will be computed again."""
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(_PAGE))
                count, (regions, channels) = int(header["count"]), header["shape"]
                size = _rows_offset(count) + count * regions * channels * 2
                if header["schema"] != SCHEMA or header["digest"] != digest or path.stat().st_size != size:
                    return None
                keys = np.frombuffer(file.read(count * KEY.itemsize), KEY)
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


class SegmentWriter:
    """Fills a new segment: rows first, synced, then their marks, synced; about once a second and at the end."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._file = segment.path.open("rb+", buffering=0)
        self._unmarked: list[int] = []
        self._synced = time.monotonic()

    def add(self, places: Sequence[int], rows: Rows) -> None:
        """Write rows (n, R, C); they are durable within about a second. Raises `DiskError`."""
        with self._explained():
            for place, row in zip(places, rows, strict=True):
                content = row.tobytes()
                write_at(self._file, self.segment.rows_at + place * self.segment.row_bytes, content)
                self.segment.marks[place] = (zlib.crc32(content), _DONE)
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
                    marks_at = _PAGE + len(self.segment.keys) * KEY.itemsize
                    write_at(self._file, marks_at + place * _MARK.itemsize, self.segment.marks[place].tobytes())
                sync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            left = int((self.segment.marks["done"] != _DONE).sum()) * self.segment.row_bytes
            reason = no_space(self.segment.path, left) if error.errno == errno.ENOSPC else error.strerror
            raise DiskError(
                f"{self.segment.path}: cannot be written: {reason}; what was computed is kept, run again to go on"
            ) from error


def segments_of(folder: Path) -> list[Path]:
    """The finished segments in a folder of the store, oldest first."""
    return sorted(path for path in folder.glob("*.segment") if path.stem.isdigit())


def _rows_offset(count: int) -> int:
    return -(-(_PAGE + count * (KEY.itemsize + _MARK.itemsize)) // _PAGE) * _PAGE
