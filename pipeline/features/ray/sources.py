"""Reading an image's bytes from a file, an archive or, through fsspec, from a URL of either.

    photos/a.jpg    photos.tar::a.jpg    s3://bucket/a.jpg    s3://bucket/photos.tar::a.jpg

Whatever prevents reading is an `OSError` whose strerror is the reason, as in `archives.read_image_bytes`.
"""

import errno
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import fsspec

from pipeline.archives import INSIDE, Archive, read_image_bytes
from pipeline.errors import ParamsError

ATTEMPTS = 5
FIRST_PAUSE = 0.5
"""Seconds before the second attempt. Each further pause is twice as long."""
NO_ANSWER = "no answer from the server"
"""Start of the reason when all attempts failed: a later run may succeed."""
CACHED_ARCHIVES = 2
"""Downloaded archives that a process keeps. Images of one archive usually follow each other in a manifest."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://.+", re.DOTALL)
_REASONS = {FileNotFoundError: "no such object", PermissionError: "permission denied", IsADirectoryError: "is a folder"}
_TEMPORARY = {408, 425, 429}
"""HTTP status of refusals after which a later request may succeed, beside those from 500 on."""
_DOWNLOADING = Lock()

Result = TypeVar("Result")


def is_url(path: str) -> bool:
    return _URL.fullmatch(path) is not None


def check_schemes(paths: Iterable[str]) -> None:
    """Check that fsspec can open every kind of URL in `paths`. Raises `ParamsError`."""
    urls = {found["scheme"]: path for path in paths if (found := _URL.fullmatch(path))}
    for scheme, url in sorted(urls.items()):
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise ParamsError(
                f"{url}: {scheme}:// cannot be read: {error}; `pip install -e '.[remote]'` in the checkout installs "
                "s3:// and https://"
            ) from error


def read_source(path: str) -> bytes:
    """Return the bytes of the image at `path`. Raises `OSError`."""
    if not is_url(path):
        return read_image_bytes(path)
    inside = INSIDE.fullmatch(path)
    if inside is None:
        return _attempt(path, lambda files, name: bytes(files.cat_file(name)))
    with _DOWNLOADING:  # the threads of a task need the same archive at the same time
        archive = _download_archive(inside["archive"])
    try:
        return archive.read(inside["member"])
    except OSError as error:
        reason = (error.strerror or str(error)).replace(str(archive.path), inside["archive"])
        raise OSError(error.errno, reason, path) from error


@lru_cache(CACHED_ARCHIVES)
def _download_archive(url: str) -> Archive:
    # The open archive outlives its folder, so nothing is left behind when Ray kills the process.
    with tempfile.TemporaryDirectory(prefix="captioner-", ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, f"archive{Path(url).suffix.lower()}")
        _attempt(url, lambda files, name: files.get_file(name, path))
        return Archive(Path(path))


def _attempt(url: str, read: Callable[[Any, str], Result]) -> Result:
    """Call `read` with the file system and name of `url`, again while the server does not answer.

    s3fs and gcsfs repeat requests by themselves; https:// and archives have this loop only.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            files, name = fsspec.core.url_to_fs(url)
            return read(files, name)
        except tuple(_REASONS) as error:
            raise type(error)(error.errno or 0, _REASONS[type(error)], url) from error
        except Exception as error:  # each file system has errors of its own for a failed connection
            status = getattr(error, "status", 0)  # of HTTP
            if 400 <= status < 500 and status not in _TEMPORARY:
                raise OSError(errno.EACCES, f"the server refuses it (HTTP {status})", url) from error
            last = error
    raise OSError(errno.EIO, f"{NO_ANSWER} in {ATTEMPTS} attempts: {type(last).__name__}: {last}", url) from last
