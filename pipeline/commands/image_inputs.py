"""The images that a command line names: files, folders, glob patterns, and standard input."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

STDIN = "-"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*")


def find_images(pattern: str) -> list[str]:
    """The files that one argument names; none if there is none. Folders are searched recursively."""
    import glob

    from pipeline.archives import IMAGE_SUFFIXES, archive_of

    path = Path(pattern)
    if pattern == STDIN:
        return [STDIN]
    if path.is_dir():
        return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if path.exists() or archive_of(pattern):
        return [pattern]
    return sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())


def no_image_message(pattern: str) -> str:
    """The error of an argument that names no file."""
    return f"{pattern}: no image found; give a file, a folder or a quoted glob pattern"


def read_inputs(files: Iterable[str], stdin: BinaryIO | None = None) -> Iterator[str | tuple[str, bytes]]:
    """The files, with `-` replaced by standard input: one image, or a list of paths, one per line.

    A list is read line by line and may be endless.
    """
    for file in files:
        if file != STDIN:
            yield file
            continue
        stream = stdin or sys.stdin.buffer
        head = _head(stream)
        if is_image(head):
            yield (STDIN, head + stream.read())
        else:
            yield from _paths(head, stream)


def is_image(head: bytes) -> bool:
    """Whether a file that starts with `head` (16 bytes) is an image, not text."""
    return (
        head.startswith(_SIGNATURES)
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == bytes(4))
    )


def _head(stream: BinaryIO) -> bytes:
    """The first 16 bytes, or the first lines of a text, so that a list that is being typed is not held up."""
    read = getattr(stream, "read1", stream.read)
    head = b""
    while len(head) < 16 and (b"\n" not in head or is_image(head)):
        more = read(16 - len(head))
        if not more:
            break
        head += more
    return head


def _paths(head: bytes, stream: BinaryIO) -> Iterator[str]:
    for line in _lines(head, stream):
        name = os.fsdecode(line).strip("\r\n")
        if name.strip():
            yield name


def _lines(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    *complete, started = head.split(b"\n")
    yield from complete
    if started:
        yield started + stream.readline()
    yield from iter(stream.readline, b"")
