"""A segment of the feature store: the features that one run computed, in one file.

    header   4096 bytes   JSON (schema, digest of the store, count, shape (R, C)), padded; its last 64 bytes are the
                          hex sha256 of the others
    keys     count x 32   sha256 of each image file
    marks    count x 8    crc32 of the row, then DONE; zeros while the row is absent
    rows     count x R x C float16, from the next multiple of 4096

The file has its full size before it gets its name, and rows are written and synced before their marks. Whenever a run
is killed, the marked rows are correct, and the next run computes only the others.

R regions, C channels.
"""

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DiskError
from pipeline.features.feature_file import Features
from pipeline.files import allocate, replacing, sync, write_at, write_error

SCHEMA = 2
SYNC_SECONDS = 1.0
"""Time between syncs: the work that a killed run can lose."""
_PAGE = 4096
_DIGEST_BYTES = 64
_KEY_BYTES = 32
_DONE = 0x454E4F44
_MARK = np.dtype([("crc32", "<u4"), ("done", "<u4")])


class Segment:
    """One file of rows."""

    def __init__(self, path: Path, keys: list[str], marks: NDArray[Any], shape: tuple[int, int]) -> None:
        self.path = path
        self.keys = keys
        """Hex sha256 of the image of each row."""
        self.marks = marks
        self.shape = shape
        self.row_bytes = shape[0] * shape[1] * 2

    @classmethod
    def create(cls, path: Path, digest: str, keys: list[str], shape: tuple[int, int]) -> "Segment":
        """Create a segment without rows. Raises `DiskError` when there is no room for all of them."""
        segment = cls(path, keys, np.zeros(len(keys), _MARK), shape)
        with replacing(path) as beside, beside.open("rb+", buffering=0) as file:
            allocate(file, beside, segment.row_offset(len(keys)))
            write_at(file, 0, _pack_header(digest, len(keys), shape))
            write_at(file, _PAGE, bytes.fromhex("".join(keys)))
        return segment

    @classmethod
    def open(cls, path: Path, digest: str) -> "Segment | None":
        """Open a segment of the store `digest`; return None for a damaged file, whose rows are encoded again."""
        try:
            with path.open("rb") as file:
                count, shape = _unpack_header(file.read(_PAGE), digest)
                keys = file.read(count * _KEY_BYTES).hex()
                marks = np.frombuffer(file.read(count * _MARK.itemsize), _MARK).copy()
            size = 2 * _KEY_BYTES
            segment = cls(path, [keys[start : start + size] for start in range(0, len(keys), size)], marks, shape)
            complete = len(marks) == count and path.stat().st_size == segment.row_offset(count)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return segment if complete else None

    def done(self) -> list[int]:
        """Return the rows that are written."""
        rows: list[int] = np.flatnonzero(self.marks["done"] == _DONE).tolist()
        return rows

    def read(self, row: int) -> Features | None:
        """Return a row (R, C); None if it cannot be read or does not match its crc32."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.row_offset(row))
                content = file.read(self.row_bytes)
        except OSError:
            return None
        if len(content) != self.row_bytes or zlib.crc32(content) != self.marks["crc32"][row]:
            return None
        return np.frombuffer(content, np.float16).reshape(self.shape)

    def row_offset(self, row: int) -> int:
        """Return where a row starts in the file."""
        before = _PAGE + len(self.keys) * (_KEY_BYTES + _MARK.itemsize)
        return -(-before // _PAGE) * _PAGE + row * self.row_bytes

    def mark_offset(self, row: int) -> int:
        """Return where a row's mark starts in the file."""
        return _PAGE + len(self.keys) * _KEY_BYTES + row * _MARK.itemsize


class SegmentWriter:
    """Fills a new segment: syncs rows, then their marks, about once a second and on leaving the context.

    Rows that were added are also kept when the context is left by an exception.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._file = segment.path.open("rb+", buffering=0)
        self._unmarked: list[int] = []
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.flush()
        except DiskError:
            if error is None:  # otherwise the first error counts
                raise
        finally:
            self._file.close()

    def add(self, rows: Sequence[int], features: Features) -> None:
        """Write `features` (n, R, C) as `rows`. Raises `DiskError`."""
        with self._disk_errors():
            for row, values in zip(rows, features, strict=True):
                content = values.tobytes()
                write_at(self._file, self.segment.row_offset(row), content)
                self.segment.marks[row] = (zlib.crc32(content), _DONE)
        self._unmarked += rows
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make the added rows durable. Raises `DiskError`."""
        rows, self._unmarked = self._unmarked, []
        if rows:
            with self._disk_errors():
                sync(self._file)
                for row in rows:
                    write_at(self._file, self.segment.mark_offset(row), self.segment.marks[row].tobytes())
                sync(self._file)
        self._synced = time.monotonic()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            missing = (len(self.segment.keys) - len(self.segment.done())) * self.segment.row_bytes
            reason = write_error(error, self.segment.path, missing)
            raise DiskError(
                f"{self.segment.path}: cannot be written: {reason}; computed features are kept, run again to continue"
            ) from error


def segments_of(folder: Path) -> list[Path]:
    """Return the segments in a folder of the store, oldest first."""
    return sorted(path for path in folder.glob("*.segment") if path.stem.isdigit())


def _pack_header(digest: str, count: int, shape: tuple[int, int]) -> bytes:
    fields = {"schema": SCHEMA, "digest": digest, "count": count, "shape": shape}
    content = json.dumps(fields, sort_keys=True).encode().ljust(_PAGE - _DIGEST_BYTES)
    return content + hashlib.sha256(content).hexdigest().encode()


def _unpack_header(header: bytes, digest: str) -> tuple[int, tuple[int, int]]:
    """Return count and shape. Raises `ValueError` for a damaged header, or one of another store or schema."""
    content, checksum = header[:-_DIGEST_BYTES], header[-_DIGEST_BYTES:]
    if hashlib.sha256(content).hexdigest().encode() != checksum:
        raise ValueError("the header does not match its sha256")
    fields = json.loads(content)
    if fields["schema"] != SCHEMA or fields["digest"] != digest:
        raise ValueError("the segment is of another store or schema")
    regions, channels = fields["shape"]
    return fields["count"], (regions, channels)
