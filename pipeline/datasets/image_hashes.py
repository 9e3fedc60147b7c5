"""The sha256 of every picture, hashed in parallel and remembered, so that a second run reads no picture.

A picture (or the archive it lies in) that still has its size, modification time and inode is taken for unchanged; one
that was modified within the last seconds is not remembered, for it could change once more within the clock's tick.
The memory is one file that nothing depends on: without it, or with a damaged one, the pictures are hashed again.
"""

import csv
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.archives import archive_of, read_image_bytes, regular_file
from pipeline.errors import DiskError
from pipeline.files import sha256_of, write_csv
from pipeline.progress import Progress

SAVE_SECONDS = 20.0
"""What a killed run can lose."""
_SETTLED = 2.0
_COLUMNS = ("sha256", "size", "mtime_ns", "inode", "path")
_AHEAD = 1024
"""Pictures handed to the threads before their results are looked at."""

State = tuple[int, int, int]
"""Size, mtime_ns, inode."""


@dataclass(frozen=True)
class ImageHashes:
    """What hashing found."""

    sha256: dict[str, str]
    """By path."""
    unreadable: dict[str, str]
    """The reason, by path."""
    hashed: int
    """Pictures whose bytes were read."""


class HashCache:
    """sha256 by path and state, kept in a file between runs."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, tuple[State, str]] = {}
        self._changed = False
        self._saved = time.monotonic()
        for sha256, state, place in _remembered(path) if path else ():
            self._known[place] = (state, sha256)

    def get(self, path: str, state: State) -> str | None:
        found = self._known.get(os.path.abspath(path))
        return found[1] if found and found[0] == state else None

    def add(self, path: str, state: State, sha256: str) -> None:
        if time.time() - state[1] / 1e9 > _SETTLED:
            self._known[os.path.abspath(path)] = (state, sha256)
            self._changed = True

    def save(self, *, now: bool = False) -> None:
        """Write what was learnt, at most every `SAVE_SECONDS`. A disk that is full costs the memory, not the run."""
        if not self.path or not self._changed or not (now or time.monotonic() - self._saved > SAVE_SECONDS):
            return
        rows = ((sha256, *state, path) for path, (state, sha256) in sorted(self._known.items()))
        try:
            write_csv(self.path, _COLUMNS, rows)
        except (DiskError, UnicodeEncodeError):
            self.path = None
        self._changed = False
        self._saved = time.monotonic()


def hash_images(paths: Sequence[str], memory: HashCache, progress: Progress) -> ImageHashes:
    """The sha256 of each path that can be read. What was hashed is remembered also when this is interrupted."""
    sha256: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    hashed = 0
    source = iter(paths)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            while batch := list(islice(source, _AHEAD)):
                for path, (state, found, error) in zip(
                    batch, pool.map(lambda p: _digest(p, memory), batch), strict=True
                ):
                    if error:
                        unreadable[path] = error
                    else:
                        sha256[path] = found
                        if state:
                            hashed += 1
                            memory.add(path, state, found)
                    progress(len(sha256) + len(unreadable), len(paths), f"pictures, {hashed} hashed")
                memory.save()
    finally:
        memory.save(now=True)
    return ImageHashes(sha256, unreadable, hashed)


def _digest(path: str, memory: HashCache) -> tuple[State | None, str, str]:
    """(state, sha256, error); no state where the digest was remembered."""
    try:
        archive = archive_of(path)
        before = regular_file(archive or path)
        state = (before.st_size, before.st_mtime_ns, before.st_ino)
        known = memory.get(path, state)
        if known:
            return None, known, ""
        return state, hashlib.sha256(read_image_bytes(path)).hexdigest() if archive else sha256_of(Path(path)), ""
    except OSError as error:
        return None, "", f"cannot be read: {error.strerror or error}"


def _remembered(path: Path) -> Iterator[tuple[str, State, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows, None) != list(_COLUMNS):
                return
            for sha256, size, modified, inode, place in rows:
                yield sha256, (int(size), int(modified), int(inode)), place
    except (OSError, ValueError, csv.Error):
        return
