"""The feature store: rows that were computed once, kept outside every output, keyed by the picture's content.

One folder per EncoderSpec and engine (the torch and the processor that computed: other ones give other last bits); in
it one segment per run (segment.py), made for exactly the pictures that were missing.

In memory a row costs some dozens of bytes: keys are arrays, no object stands for a picture.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DiskError
from pipeline.features.feature_file import Rows
from pipeline.features.store_segment import KEY, Keys, Segment, SegmentWriter, segments_of
from pipeline.files import write_json

LOCK_SECONDS = 60.0


def keys_of(digests: Iterable[str]) -> Keys:
    """From hex digests."""
    content = bytearray()
    for digest in digests:
        content += bytes.fromhex(digest)
    return np.frombuffer(content, KEY)


def first_occurrences(keys: Keys) -> Keys:
    """Without what occurs again."""
    places = np.unique(keys, return_index=True)[1]
    return keys if len(places) == len(keys) else keys[np.sort(places)]


class FeatureStore:
    """The segments of one spec and engine below `root`, and where each picture's row is."""

    def __init__(self, root: Path, spec: EncoderSpec, engine: str, shape: tuple[int, int]) -> None:
        content = {"engine": engine, "spec": json.loads(spec.to_json())}
        self._digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.folder = root / self._digest
        self.shape = shape
        self._segments: list[Segment] = []
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
            self._read_segments()
            yield
        finally:
            lock.release()

    def _remove_leftovers(self) -> None:
        """What a killed run had not finished making."""
        for path in self.folder.glob(".*.*"):
            with suppress(OSError):
                path.unlink()

    def _read_segments(self) -> None:
        found = (Segment.open(path, self._digest) for path in segments_of(self.folder))
        self._segments = [segment for segment in found if segment is not None and segment.shape == self.shape]
        self._index = None

    def new_segment(self, keys: Keys) -> SegmentWriter:
        """A segment with room for exactly `keys`; `refresh` finds what is written there. Raises `DiskError`."""
        number = 1 + max((int(path.stem) for path in segments_of(self.folder)), default=0)
        segment = Segment.create(self.folder / f"{number:06d}.segment", self._digest, keys, self.shape)
        self._segments.append(segment)
        return SegmentWriter(segment)

    def refresh(self) -> None:
        """Find the rows that were written since."""
        self._index = None

    def forget(self, keys: Keys) -> None:
        """Rows that turned out to be damaged are to be computed again."""
        for segment in self._segments:
            segment.marks["done"][np.isin(segment.keys, keys)] = 0
        self._index = None

    def keys(self) -> Keys:
        """Of all rows, in the order in which they were computed."""
        index = self._indexed()
        return index.keys[np.lexsort((index.places, index.segments))]

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
        segments, places = index.segments[found], index.places[found]
        sums = np.empty(len(keys), np.uint32)
        ends = np.flatnonzero((np.diff(segments) != 0) | (np.diff(places) != 1)) + 1
        for start, end in pairwise([0, *ends.tolist(), len(keys)]):  # stretches that lie behind each other in one file
            segment, place = self._segments[int(segments[start])], int(places[start])
            sums[start:end] = segment.marks["crc32"][place : place + end - start]
            with suppress(OSError, EOFError):
                segment.read(place, rows[start:end])
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
            self._index = _Index(self._segments)
        return self._index


class _Index:
    """Where the newest row of each picture is."""

    keys: Keys
    """Sorted."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        places = [segment.done() for segment in segments]
        keys = _joined([segment.keys[done] for segment, done in zip(segments, places, strict=True)], KEY)
        order = np.argsort(keys, kind="stable")
        newest = np.ones(len(keys), bool)
        newest[:-1] = keys[order[1:]] != keys[order[:-1]]
        order = order[newest]
        self.keys = keys[order]
        self.segments = np.repeat(np.arange(len(segments), dtype=np.int32), [len(done) for done in places])[order]
        self.places = _joined(places, np.dtype(np.int64))[order]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The number of each key's row here; -1 for those without one."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        number = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[number] == keys, number, -1)


def _joined(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
