"""Pictures by path or by address: a file, a place in an archive, or either of them behind an fsspec URL.

    photos/a.jpg    photos.tar::a.jpg    s3://bucket/a.jpg    s3://bucket/photos.tar::a.jpg

What is wrong with one picture is an `OSError`, as `archives.read_image_bytes` gives it. A server that does not answer is
asked again, and then is no fault of a picture: `Unreachable` ends the run, which can go on later.
"""

import os
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from pipeline.archives import INSIDE, Archive, read_image_bytes
from pipeline.errors import DiskError, ParamsError

TRIES = 5
FIRST_PAUSE = 0.5
"""Seconds before a second try; each further pause is twice as long."""
ARCHIVES_KEPT = 2
"""Fetched archives that a process keeps: pictures that stand together in a manifest mostly lie in one."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://.+", re.DOTALL)
_OF_THE_PICTURE = (FileNotFoundError, PermissionError, IsADirectoryError)

Result = TypeVar("Result")


class Unreachable(DiskError):
    """A server gave no answer, several times."""


def is_url(path: str) -> bool:
    return _URL.fullmatch(path) is not None


def check_schemes(paths: Iterable[str]) -> None:
    """Raises `ParamsError` for a kind of address that cannot be opened here, before any work."""
    schemes = {found["scheme"]: path for path in paths if (found := _URL.fullmatch(path))}
    for scheme, path in sorted(schemes.items()):
        try:
            import fsspec
        except ImportError as error:
            raise ParamsError(f"{path}: addresses need fsspec; run `pip install 'captioner[remote]'`") from error
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise ParamsError(f"{path}: {error}") from error
        except ValueError as error:
            raise ParamsError(
                f"{path}: {scheme}:// is no known kind of address; use s3://, gs://, hf:// or https://"
            ) from error


def read_source(path: str) -> bytes:
    """The bytes of a picture. Raises `OSError`, whose strerror says why, and `Unreachable`."""
    if not is_url(path):
        return read_image_bytes(path)
    inside = INSIDE.fullmatch(path)
    if inside is None:
        return _tried(path, lambda files, name: bytes(files.cat_file(name)))
    archive = _ARCHIVES.fetched(inside["archive"])
    try:
        return archive.read(inside["member"])
    except OSError as error:
        reason = (error.strerror or str(error)).replace(str(archive.path), inside["archive"])
        raise OSError(error.errno, reason, path) from error


class _Archives:
    """The last archives that were fetched from servers.

    Their files have no name any more: the system frees them with the process, also when Ray ends it abruptly.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[str, Archive] = OrderedDict()

    def fetched(self, url: str) -> Archive:
        with self._lock:
            if url not in self._kept:
                while len(self._kept) >= ARCHIVES_KEPT:
                    self._kept.popitem(last=False)
                self._kept[url] = _fetch(url)
            self._kept.move_to_end(url)
            return self._kept[url]


def _fetch(url: str) -> Archive:
    descriptor, name = tempfile.mkstemp(prefix="captioner-", suffix=Path(url).suffix.lower())
    os.close(descriptor)
    try:
        _tried(url, lambda files, source: files.get_file(source, name))
        return Archive(Path(name))
    finally:
        with suppress(OSError):  # Windows keeps what is open
            os.unlink(name)


_ARCHIVES = _Archives()


def _tried(url: str, read: Callable[[Any, str], Result]) -> Result:
    """What `read` gives for the file system and name of `url`, asked again while the server does not answer."""
    import fsspec

    for attempt in range(TRIES):
        try:
            files, name = fsspec.core.url_to_fs(url)
            return read(files, name)
        except _OF_THE_PICTURE as error:
            reason = {FileNotFoundError: "no such object", PermissionError: "permission denied"}
            raise type(error)(error.errno or 0, reason.get(type(error), "is a folder"), url) from error
        except Exception as error:  # each file system has its own errors for a connection that fails
            last = error
        if attempt + 1 < TRIES:
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise Unreachable(
        f"{url}: cannot be read after {TRIES} tries: {type(last).__name__}: {last}; "
        "what was computed is kept, run the same command again to go on"
    ) from last
