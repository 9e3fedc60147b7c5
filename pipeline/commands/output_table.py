"""Checks of the files that options name as outputs, such as the table of `predict --csv` and `score --per-image`."""

import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import ParamsError

_LONGEST_HEADER = 4096


def check_output(
    option: str, path: Path, kind: str, is_older: Callable[[Path], bool], inputs: Iterable[str | Path | None]
) -> None:
    """Check that writing to `path` is possible and replaces at most an older output of this `kind`.

    Raises `ParamsError` when the file at `path` is one of the `inputs`, under whatever name, or `is_older` is false or
    raises `OSError`; and as `check_writable` does.
    """
    from pipeline.files import check_writable

    if str(path) == "-":
        raise ParamsError(f"{option} -: not a file name; give one")
    if path.is_dir():
        raise ParamsError(f"{option} {path}: is a folder; name a file")
    check_writable(path)
    if not path.exists():
        return
    try:
        replaceable = is_older(path)
    except OSError as error:
        raise ParamsError(f"{option} {path}: cannot be read: {error.strerror}; name another file") from error
    if not replaceable:
        raise ParamsError(f"{option} {path}: exists and is not {kind}; name another file")
    if any(one is not None and os.path.exists(one) and os.path.samefile(path, one) for one in inputs):
        raise ParamsError(f"{option} {path}: is also an input; name another file")


def check_output_table(option: str, path: Path, header: str, inputs: Iterable[str | Path | None]) -> None:
    """Check an output that is a table; `header` is a glob pattern of its first line. An empty file may be replaced."""

    def is_table(path: Path) -> bool:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER).decode("utf-8-sig", errors="replace").rstrip("\r\n")
        return not path.stat().st_size or fnmatchcase(line, header)

    check_output(option, path, "a table of this command", is_table, inputs)
