"""The images that a command line names: files, folders, glob patterns, and standard input."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from pipeline.commands.notes import passed_over_note
from pipeline.commands.terminal import say
from pipeline.errors import DataError
from pipeline.file_signatures import is_image

STDIN = "-"
NOT_A_LIST = "standard input: neither an image in a known format nor a list of paths in UTF-8, one per line"
_UTF_8_MARK = b"\xef\xbb\xbf"
_NOT_PATHS = (b"%pdf-", b"%!ps", b"<!", b"<?xml", b"<html", b"<svg", b'{"', b'[{"')
"""How text of other kinds begins, such as the error page of a download."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LONGEST_LINE = 1 << 16
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def find_images(pattern: str) -> list[str]:
    """The files that one argument names; none if there is none. Raises `DataError` for a standard input that is closed.

    Folders are searched recursively, and a note counts the files in them that are neither images nor text.
    """
    import glob

    from pipeline.archives import IMAGE_SUFFIXES, archive_of
    from pipeline.datasets.image_index import is_usual
    from pipeline.folder_walk import walk_files

    path = Path(pattern)
    if pattern == STDIN:
        if sys.stdin is None:
            raise DataError("standard input: closed; pipe an image or a list of paths")
        return [STDIN]
    if path.is_dir():
        names = list(walk_files(path, hidden_folders=True))
        if others := [name for name in names if not is_usual(name)]:
            say(passed_over_note(pattern, others))
        return sorted(str(path / name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if path.exists() or archive_of(pattern):
        return [pattern]
    return sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())


def no_image_message(pattern: str) -> str:
    """The error of an argument that names no file."""
    if address := address_message(pattern):
        return address
    return f"{pattern}: no image found; give a file, a folder or a quoted glob pattern"


def address_message(name: str) -> str | None:
    """The error of an address of the web, with the command that downloads it; None for another name."""
    if not _ADDRESS.match(name):
        return None
    if not name.lower().startswith(("http://", "https://", "ftp://")):
        return f"{name}: an address, not a file; download the image and give its path"
    file = shlex.quote(PurePosixPath(urlsplit(name).path).name or "image")
    return f"{name}: an address, not a file; download it first: curl -fL -o {file} {shlex.quote(name)}"


def read_inputs(
    files: Iterable[str], problems: dict[str, str], stdin: BinaryIO | None = None
) -> Iterator[str | tuple[str, bytes]]:
    """The files, with `-` replaced by standard input: one image, or a list of paths, one per line.

    A list is read line by line and may be endless. It ends at a line that cannot be a path. `problems` receives the
    messages of inputs that cannot be images, by name.
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
            yield from _paths(head, stream, problems)


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


def _paths(head: bytes, stream: BinaryIO, problems: dict[str, str]) -> Iterator[str | tuple[str, bytes]]:
    for number, line in enumerate(_lines(head.removeprefix(_UTF_8_MARK), stream)):
        is_path = b"\0" not in line and len(line) < _LONGEST_LINE
        if not is_path or (number == 0 and _is_other_content(line)):
            problems[STDIN] = NOT_A_LIST
            yield (STDIN, b"")
            return
        name = os.fsdecode(line).strip("\r\n")
        if message := address_message(name):
            problems[name] = message
        if name.strip():
            yield name


def _is_other_content(line: bytes) -> bool:
    """Whether the first line is that of a binary file or a document."""
    return _CONTROL.search(line) is not None or line.lstrip().lower().startswith(_NOT_PATHS)


def _lines(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    *complete, started = head.split(b"\n")
    yield from complete
    if started:
        yield started + stream.readline(_LONGEST_LINE)
    yield from iter(lambda: stream.readline(_LONGEST_LINE), b"")
