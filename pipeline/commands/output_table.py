"""Checks of the files that options name as outputs, such as the table of `predict --csv` and `score --per-image`."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import ParamsError

_LONGEST_HEADER = 4096


def check_output_table(option: str, path: Path, header: str, inputs: Iterable[str | Path | None]) -> None:
    """Check that writing a table to `path` replaces at most an older table.

    `header` is a glob pattern of the table's first line. Raises `ParamsError` when the file at `path` starts with
    another line, or is one of the `inputs`. An empty file may be replaced.
    """
    if not path.is_file():
        return
    try:
        state = path.stat()
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER).decode("utf-8-sig", errors="replace").rstrip("\r\n")
    except OSError as error:
        raise ParamsError(f"{option} {path}: cannot be read: {error.strerror}; name another file") from error
    if state.st_size and not fnmatchcase(line, header):
        raise ParamsError(f"{option} {path}: exists and is not a table of this command; name another file")
    check_no_input(option, path, inputs)


def check_no_input(option: str, path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise `ParamsError` when an output is one of the inputs, under whatever name."""
    if any(one is not None and os.path.exists(one) and os.path.samefile(path, one) for one in inputs):
        raise ParamsError(f"{option} {path}: is also an input; name another file")
