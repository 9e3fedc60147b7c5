"""The feature store: features that were computed once, outside all DVC outputs, by the sha256 of the image file.

    DIGEST/spec.json    an EncoderSpec, and the engine (versions of torch and Pillow, and the processor: others compute
                        other last bits)
    DIGEST/000001.h5    a part: a features.h5 whose image ids are the sha256 of image files

A run writes the rows that are missing as further parts. A part gets its name when it is complete, so the next run after
a killed one computes only what no part contains, and again what is damaged. If several parts have a row of an image,
the newest part wins.

R regions, C channels.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError, DataError, DiskError
from pipeline.features.feature_file import FeatureFile, Features, write_feature_file
from pipeline.files import check_room, locked_folder, write_json

BUFFER_BYTES = 1 << 26
"""Largest size of the rows that wait for the next part."""
FLUSH_SECONDS = (1.0, 10.0)
"""Shortest and longest time between two parts; in between it is a tenth of the run so far. A killed run loses this much
work."""
OPEN_PARTS = 64
"""Largest number of mapped parts. Each needs a file descriptor."""
SPEC_FILE = "spec.json"


class FeatureStore:
    """The features of one spec and engine below `root`. Keys are hex sha256 of image files."""

    def __init__(self, root: Path, spec: EncoderSpec, engine: str, shape: tuple[int, int]) -> None:
        self.spec = spec
        self.engine = engine
        self.shape = shape
        """(R, C)"""
        self._content = {"engine": engine, "spec": json.loads(spec.to_json())}
        self.folder = root / hashlib.sha256(json.dumps(self._content, sort_keys=True).encode()).hexdigest()
        self.damaged_parts: list[Path] = []
        self._open = lru_cache(OPEN_PARTS)(FeatureFile.open)
        self._places: dict[str, tuple[Path, int]] = {}
        """The part and the row of each key."""
        self._waiting: dict[str, Features] = {}
        """Rows that no part contains yet."""
        self._began = self._flushed = 0.0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, lock it and read its index. Raises `DiskError` when another run holds the lock."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"{self.folder}: cannot be created: {error.strerror}; set CAPTIONER_CACHE to a writable folder"
            ) from error
        no_access = "if it is another user's, ask for write access (see docs/scale.md), or set CAPTIONER_CACHE"
        with locked_folder(self.folder, no_access=no_access):
            write_json(self.folder / SPEC_FILE, self._content)
            self.load()
            yield

    def load(self) -> None:
        """Find the rows of all parts."""
        self._places, self.damaged_parts = {}, []
        self._open.cache_clear()
        for path in parts_of(self.folder):
            try:
                part = self._open(path)
            except CaptionerError:
                self.damaged_parts.append(path)
                continue
            if part.spec == self.spec and (part.regions, part.channels) == self.shape:
                self._places |= {key: (path, row) for row, key in enumerate(part.images)}

    @contextmanager
    def filling(self, images: int) -> Iterator[None]:
        """Context manager for adding the rows of up to `images` images. However it is left, added rows are kept.

        Raises `DiskError`, at the beginning if there is no room for all of them.
        """
        check_room(self.folder, images * self.row_bytes)
        self._began = self._flushed = time.monotonic()
        try:
            yield
        except BaseException:
            with suppress(DiskError):  # the first error counts
                self._flush()
            raise
        self._flush()

    def add(self, keys: Sequence[str], features: Features) -> None:
        """Add the rows (n, R, C) of `keys`. They can be read after the context `filling`. Raises `DiskError`."""
        self._waiting.update(zip(keys, features, strict=True))
        now = time.monotonic()
        shortest, longest = FLUSH_SECONDS
        pause = min(max((now - self._began) / 10, shortest), longest)
        if now - self._flushed >= pause or len(self._waiting) * self.row_bytes >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write the waiting rows as a new part. Raises `DiskError`."""
        rows = self._waiting

        def read(keys: Sequence[str]) -> Features:
            return np.stack([rows[key] for key in keys])

        if rows:
            number = max((int(path.stem) for path in parts_of(self.folder)), default=0) + 1
            path = self.folder / f"{number:06d}.h5"
            try:
                write_feature_file(path, self.spec, rows, self.shape, read)
            except DiskError as error:
                raise DiskError(f"{error}; earlier features are kept: run again to continue") from error
            self._places |= {key: (path, row) for row, key in enumerate(sorted(rows))}
            self._waiting = {}
        self._flushed = time.monotonic()

    def forget(self, keys: Iterable[str]) -> None:
        """Drop damaged rows, so that they are computed again."""
        for key in keys:
            del self._places[key]

    def keys(self) -> list[str]:
        """Return the keys of all rows."""
        return list(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, keys: Sequence[str]) -> Features:
        """Return the features (n, R, C) of `keys`. Thread-safe.

        Raises `ArtefactError` when a row is damaged, `DataError` when its part is gone, `KeyError` for a key without a
        row.
        """
        features = np.empty((len(keys), *self.shape), np.float16)
        for place, key in enumerate(keys):
            path, row = self._places[key]
            features[place] = self._open(path).read([row])[0]
        return features

    def damaged(self, keys: Iterable[str]) -> list[str]:
        """Read the rows of `keys` and return the keys of those that are damaged."""
        return [key for key in keys if not self._is_intact(key)]

    def _is_intact(self, key: str) -> bool:
        try:
            self.read([key])
        except (ArtefactError, DataError):
            return False
        return True

    @property
    def row_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * 2


def parts_of(folder: Path) -> list[Path]:
    """Return the parts in a folder of the store, oldest first."""
    return sorted((path for path in folder.glob("*.h5") if path.stem.isdecimal()), key=lambda path: int(path.stem))
