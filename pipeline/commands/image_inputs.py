"""The images that a command line names: files, folders, glob patterns, and standard input."""

import codecs
import errno
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from io import BufferedReader, BytesIO
from itertools import chain
from pathlib import Path

from pipeline.commands.notes import ignored_files_note
from pipeline.commands.terminal import say
from pipeline.file_signatures import IMAGE_START

STDIN = "-"
ATTENTION_MAP = ".attention.png"
"""The end of the names of files that `--attention` writes. In a folder they are no input."""
NOT_A_LIST = "standard input: neither an image in a known format nor a list of paths in UTF-8, one per line"
_NOT_A_PATH = re.compile(rb'.*[\x00-\x08\x0e-\x1f]|\s*(%pdf-|%!ps|<!|<\?xml|<html|<svg|\[?\{")', re.IGNORECASE)
"""Binary data, and how text of other kinds begins, such as the error page of a download."""
_LONGEST_LINE = 1 << 16
_ADDRESS = re.compile("(https?|ftp)://", re.IGNORECASE)


def find_images(pattern: str) -> list[str]:
    """The files that one argument names; none if there is none.

    Folders are searched recursively, and a note counts the files in them that are neither images nor text.
    """
    import glob

    from pipeline.archives import IMAGE_SUFFIXES, archive_of, is_archive
    from pipeline.datasets.image_index import is_usual, walk_files

    path = Path(pattern)
    if pattern == STDIN:
        return [STDIN]
    if not pattern:  # an unset variable of a shell, not the current folder
        return []
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.ENAMETOOLONG}:
            return [pattern]  # opening it gives the same error, among those of the other images
    if path.is_dir():
        names = list(walk_files(path, hidden_folders=True))
        if maps := [name for name in names if name.endswith(ATTENTION_MAP)]:
            say(f"note: {pattern}: attention maps that are not captioned: {len(maps):,}")
            names = [name for name in names if not name.endswith(ATTENTION_MAP)]
        if others := [name for name in names if not is_usual(name)]:
            say(ignored_files_note(pattern, others))
        return sorted(str(path / name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if is_archive(path):
        return []
    if path.exists() or archive_of(pattern):
        return [pattern]
    return sorted(file for file in glob.glob(pattern, recursive=True) if Path(file).is_file())


def problem_of(name: str) -> str | None:
    """The error of an archive or of an address of the web, with a remedy; None for another name."""
    from pipeline.archives import is_archive

    if is_archive(Path(name)):
        return f"{name}: an archive; unpack it and give the folder, or give an image in it as {name}::IMAGE"
    if not _ADDRESS.match(name):
        return None
    file = shlex.quote(re.split("[?#]", name)[0].rpartition("/")[2] or "image")
    address = shlex.quote(name.replace(" ", "%20"))
    return f"{name}: a URL, not a file; download it first: curl -gfL -o {file} {address}"


def read_inputs(files: Iterable[str], problems: dict[str, str]) -> Iterator[str | tuple[str, bytes]]:
    """The files, with `-` replaced by standard input: one image, or a list of paths, one per line.

    A list is read line by line and may be endless. It ends at a line that cannot be a path. `problems` receives the
    messages of inputs that cannot be images, by name.
    """
    for file in files:
        if file != STDIN:
            yield file
            continue
        stream: BufferedReader = getattr(sys.stdin, "buffer", None) or BufferedReader(BytesIO())  # if it is closed
        head = stream.peek(16)[:16]
        first = stream.readline(_LONGEST_LINE)
        if first.startswith(b"RIFF"):  # the size in the head of a WebP may hold the byte of a line's end
            first += stream.read(max(16 - len(first), 0))
        if IMAGE_START.match(head) or IMAGE_START.match(first):  # a pipe may deliver less than 16 bytes at first
            yield (STDIN, first + stream.read())
            continue
        is_list = not _NOT_A_PATH.match(first)
        for line in chain([first.removeprefix(codecs.BOM_UTF8)], iter(partial(stream.readline, _LONGEST_LINE), b"")):
            if not is_list or b"\0" in line or len(line) == _LONGEST_LINE:
                problems[STDIN] = NOT_A_LIST
                yield (STDIN, b"")
                break
            name = os.fsdecode(line).strip("\r\n")
            if message := problem_of(name):
                problems[name] = message
            if name.strip():
                yield name
