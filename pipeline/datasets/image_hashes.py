"""Computes the sha256 of all images in parallel, with a cache, so that a second run reads no image.

An image (or the archive that holds it) with the same size, modification time and inode counts as unchanged. One that
was modified within the last seconds is not cached, because it could change again within the clock's resolution. The
cache is one file that nothing depends on: images whose lines are missing or damaged are hashed again.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.archives import archive_of, read_image_bytes
from pipeline.errors import DataError, DiskError
from pipeline.files import read_csv, regular_file, sha256_of, write_csv
from pipeline.progress import Progress

SAVE_SECONDS = 20.0
"""The work that a killed run can lose."""
_SETTLED_SECONDS = 2.0
_COLUMNS = ("crc32", "sha256", "size", "mtime_ns", "inode", "path")
_BATCH = 1024

State = tuple[int, int, int]
"""Size, mtime_ns and inode of a file."""


@dataclass(frozen=True)
class ImageHashes:
    """The sha256 of images."""

    sha256: dict[str, str]
    """By path."""
    unreadable: dict[str, str]
    """The reason by path."""
    hashed: int
    """The number of images that were read, not taken from the cache."""


class HashCache:
    """The sha256 by path and file state, kept in a file between runs. Without a path it starts empty."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, tuple[State, str]] = {}
        self._changed = False
        self._saved = time.monotonic()
        for place, state, sha256 in _read_cache(path) if path else ():
            self._known[place] = (state, sha256)

    def get(self, path: str, state: State) -> str | None:
        """The sha256 of an unchanged file."""
        found = self._known.get(os.path.abspath(path))
        return found[1] if found and found[0] == state else None

    def add(self, path: str, state: State, sha256: str) -> None:
        """Store a sha256, unless the file was modified just now."""
        if time.time() - state[1] / 1e9 > _SETTLED_SECONDS:
            self._known[os.path.abspath(path)] = (state, sha256)
            self._changed = True

    def save(self, *, force: bool = False) -> None:
        """Write the file, at most every `SAVE_SECONDS` unless forced. A full disk costs the cache, not the run."""
        if not self.path or not self._changed or not (force or time.monotonic() - self._saved > SAVE_SECONDS):
            return
        rows = ([sha256, *map(str, state), path] for path, (state, sha256) in sorted(self._known.items()))
        try:
            write_csv(self.path, _COLUMNS, ((_checksum(row), *row) for row in rows))
        except (DiskError, UnicodeEncodeError):
            self.path = None
        self._changed = False
        self._saved = time.monotonic()


def hash_images(paths: Sequence[str], cache: HashCache, progress: Progress) -> ImageHashes:
    """Hash the images at `paths`, or take their sha256 from the cache, which is saved also on an interruption."""
    sha256: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    hashed = 0
    remaining = iter(paths)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            while batch := list(islice(remaining, _BATCH)):
                results = pool.map(lambda path: _hash_image(path, cache), batch)
                for path, (state, digest, error) in zip(batch, results, strict=True):
                    if error:
                        unreadable[path] = error
                    else:
                        sha256[path] = digest
                        if state:
                            hashed += 1
                            cache.add(path, state, digest)
                    progress(len(sha256) + len(unreadable), len(paths), f"images, {hashed} hashed")
                cache.save()
    finally:
        cache.save(force=True)
    return ImageHashes(sha256, unreadable, hashed)


def _hash_image(path: str, cache: HashCache) -> tuple[State | None, str, str]:
    """(state, sha256, error); no state for a cached sha256."""
    try:
        archive = archive_of(path)
        status = regular_file(archive or path)
        state = (status.st_size, status.st_mtime_ns, status.st_ino)
        cached = cache.get(path, state)
        if cached:
            return None, cached, ""
        return state, hashlib.sha256(read_image_bytes(path)).hexdigest() if archive else sha256_of(Path(path)), ""
    except OSError as error:
        return None, "", f"cannot be read: {error.strerror or error}"


def _read_cache(path: Path) -> Iterator[tuple[str, State, str]]:
    """(path, state, sha256) of each undamaged line."""
    try:
        for crc32, *row in read_csv(path, _COLUMNS):
            if crc32 == _checksum(row):
                sha256, size, modified, inode, place = row
                yield place, (int(size), int(modified), int(inode)), sha256
    except (DataError, ValueError):
        return


def _checksum(row: Sequence[str]) -> str:
    return f"{zlib.crc32(chr(0).join(row).encode()):08x}"
