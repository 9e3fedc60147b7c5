"""The feature store: features that were computed once, outside all DVC outputs, by the sha256 of the image file.

There is one folder per EncoderSpec and engine (versions of torch and Pillow, and the processor: others compute other
last bits). Each run adds one segment for the images that were missing (see `store_segment`).

R regions, C channels.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DiskError
from pipeline.features.feature_file import Features
from pipeline.features.store_segment import Segment, SegmentWriter, segments_of
from pipeline.files import write_json

LOCK_SECONDS = 60.0
"""How long a run waits for another one that fills the same folder."""
SPEC_FILE = "spec.json"


class DamagedRowsError(Exception):
    """Rows of the store differ from what was written."""


class FeatureStore:
    """The features of one spec and engine below `root`. Keys are hex sha256 of image files."""

    def __init__(self, root: Path, spec: EncoderSpec, engine: str, shape: tuple[int, int]) -> None:
        self._content = {"engine": engine, "spec": json.loads(spec.to_json())}
        self._digest = hashlib.sha256(json.dumps(self._content, sort_keys=True).encode()).hexdigest()
        self.folder = root / self._digest
        self.shape = shape
        """(R, C)"""
        self._segments: list[Segment] = []
        self._places: dict[str, tuple[Segment, int]] = {}
        """The segment and the row of each key."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{self.folder}: cannot be created: {error.strerror}; set CAPTIONER_CACHE to a writable folder"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder and read its segments. Raises `DiskError` when another run holds the lock for a minute.

        The lock also excludes a run whose parent process was killed.
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
            for leftover in self.folder.glob(".*.*"):  # of a killed run
                with suppress(OSError):
                    leftover.unlink()
            if not (self.folder / SPEC_FILE).is_file():
                write_json(self.folder / SPEC_FILE, self._content)
            opened = [Segment.open(path, self._digest) for path in segments_of(self.folder)]
            self._segments = [segment for segment in opened if segment and segment.shape == self.shape]
            self.refresh()
            yield
        finally:
            lock.release()

    def new_segment(self, keys: list[str]) -> SegmentWriter:
        """Create a segment for the features of `keys`. Call `refresh` after it is filled. Raises `DiskError`."""
        number = max((int(path.stem) for path in segments_of(self.folder)), default=0) + 1
        segment = Segment.create(self.folder / f"{number:06d}.segment", self._digest, keys, self.shape)
        self._segments.append(segment)
        return SegmentWriter(segment)

    def refresh(self) -> None:
        """Find the rows that were added; of several rows of one image, the newest counts."""
        self._places = {segment.keys[row]: (segment, row) for segment in self._segments for row in segment.done()}

    def forget(self, keys: Iterable[str]) -> None:
        """Drop damaged rows, so that they are computed again."""
        dropped = set(keys)
        for segment in self._segments:
            for row in segment.done():
                if segment.keys[row] in dropped:
                    segment.marks["done"][row] = 0
        self.refresh()

    def keys(self) -> list[str]:
        """Return the keys of all rows."""
        return list(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, keys: Sequence[str]) -> Features:
        """Return the features (n, R, C) of `keys`. Thread-safe.

        Raises `DamagedRowsError` when a row is damaged, `KeyError` for a key without a row.
        """
        features = np.empty((len(keys), *self.shape), np.float16)
        for place, key in enumerate(keys):
            row = self._row(key)
            if row is None:
                raise DamagedRowsError
            features[place] = row
        return features

    def damaged(self, keys: Iterable[str]) -> list[str]:
        """Read the rows of `keys` and return the keys of those that are damaged."""
        return [key for key in keys if self._row(key) is None]

    def _row(self, key: str) -> Features | None:
        segment, row = self._places[key]
        return segment.read(row)
