"""Which pictures a command line means: files, folders, glob patterns, and what comes on standard input."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DataError

STDIN = "-"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*")


def find(patterns: Iterable[str]) -> list[str]:
    """The files that are meant, in the order given; `-` stays as it is. Raises `DataError` naming what means none."""
    files: list[str] = []
    for pattern in patterns:
        found = matching(pattern)
        if not found:
            raise DataError(nothing_at(pattern))
        files += found
    return files


def matching(pattern: str) -> list[str]:
    """The files that one argument means; none where there is none. Folders are searched with all below them."""
    import glob

    from pipeline.archives import archive_of
    from pipeline.encoders.images import SUFFIXES

    path = Path(pattern)
    if pattern == STDIN:
        return [STDIN]
    if path.is_dir():
        return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if path.exists() or archive_of(pattern):
        return [pattern]
    return sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())


def nothing_at(pattern: str) -> str:
    """What to say of an argument that means no file."""
    return f"{pattern}: no picture there; give a file, a folder or a quoted glob pattern"


def opened(files: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[str | tuple[str, bytes]]:
    """The files, with `-` replaced by what standard input holds: one picture, or a list of paths, one in a line.

    A list is read as it comes, and may be endless.
    """
    for file in files:
        if file != STDIN:
            yield file
            continue
        stream = stdin or sys.stdin.buffer
        head = _head(stream)
        if is_picture(head):
            yield (STDIN, head + stream.read())
        else:
            yield from _listed(head, stream)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so (16 bytes) is a picture's, not a text's."""
    return (
        head.startswith(_SIGNATURES)
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == bytes(4))
    )


def _head(stream: BinaryIO) -> bytes:
    """The first 16 bytes, or the first lines when they are text, so that a list that is being typed is not held up."""
    read = getattr(stream, "read1", stream.read)
    head = b""
    while len(head) < 16 and (b"\n" not in head or is_picture(head)):
        more = read(16 - len(head))
        if not more:
            break
        head += more
    return head


def _listed(head: bytes, stream: BinaryIO) -> Iterator[str]:
    for line in _lines(head, stream):
        name = os.fsdecode(line).strip("\r\n")
        if name.strip():
            yield name


def _lines(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    *whole, begun = head.split(b"\n")
    yield from whole
    if begun:
        yield begun + stream.readline()
    yield from iter(stream.readline, b"")
