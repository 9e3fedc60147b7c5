"""Computes the sha256 of all images in parallel, with a cache, so that a second run reads no image.

An image (or the archive that holds it) with the same size, modification time and inode counts as unchanged. One that
was modified within the last seconds is not cached, because it could change again within the clock's resolution. The
cache is one file that nothing depends on. It is under a digest: where the file is missing or damaged, all images are
hashed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.archives import archive_of, read_image_bytes
from pipeline.errors import DiskError
from pipeline.files import regular_file, sha256_of, write_text
from pipeline.progress import Progress

_SETTLED_SECONDS = 2.0
_BATCH = 1024

State = list[int]
"""Size, mtime_ns and inode of a file."""
Cache = dict[str, tuple[State, str]]
"""The state and the sha256 of each image by its absolute path."""


@dataclass(frozen=True)
class ImageHashes:
    """The sha256 of images."""

    sha256: dict[str, str]
    """By path."""
    unreadable: dict[str, str]
    """The reason by path."""
    hashed: int
    """The number of images that were read, not taken from the cache."""


def read_cache(path: Path) -> Cache:
    """Read what `write_cache` wrote. The cache is empty where the file is missing or damaged."""
    try:
        digest, images = json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return {}
    return {image: (state, sha256) for image, (state, sha256) in images.items()} if digest == _digest(images) else {}


def write_cache(path: Path, cache: Cache) -> None:
    """Write the cache with its digest. Raises `DiskError`."""
    write_text(path, json.dumps([_digest(cache), cache]))


def _digest(images: Any) -> str:
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()


def hash_images(paths: Sequence[str], cache: Path | None, progress: Progress) -> ImageHashes:
    """Hash the images at `paths`, or take their sha256 from the file `cache`.

    The file is written also on an interruption. A full disk costs the cache, not the run.
    """
    known = read_cache(cache) if cache else {}
    added: Cache = {}
    sha256: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    hashed = 0
    remaining = iter(paths)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            while batch := list(islice(remaining, _BATCH)):
                results = pool.map(lambda path: _hash_image(path, known), batch)
                for path, (state, digest, error) in zip(batch, results, strict=True):
                    if error:
                        unreadable[path] = error
                    else:
                        sha256[path] = digest
                        hashed += state is not None
                    if state and time.time() - state[1] / 1e9 > _SETTLED_SECONDS:
                        added[os.path.abspath(path)] = (state, digest)
                    progress(len(sha256) + len(unreadable), len(paths), f"images, {hashed} hashed")
    finally:
        if cache and added:
            with suppress(DiskError):
                write_cache(cache, known | added)
    return ImageHashes(sha256, unreadable, hashed)


def _hash_image(path: str, known: Cache) -> tuple[State | None, str, str]:
    """(state, sha256, error); no state for a cached sha256."""
    try:
        archive = archive_of(path)
        status = regular_file(archive or path)
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        cached_state, cached = known.get(os.path.abspath(path), (None, ""))
        if cached_state == state:
            return None, cached, ""
        return state, hashlib.sha256(read_image_bytes(path)).hexdigest() if archive else sha256_of(Path(path)), ""
    except OSError as error:
        return None, "", f"cannot be read: {error.strerror or error}"
