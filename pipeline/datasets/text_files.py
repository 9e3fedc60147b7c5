"""Caption files as text, whatever wrote them.

`auto` is UTF-8 with or without a mark, or UTF-16. Bytes that do not belong become lone surrogates (PEP 383), which
`make_row` refuses: so a damaged byte costs its own row, and the row is reported.
"""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.errors import DataError, ParamsError

AUTO = "auto"


@contextmanager
def open_text(path: Path, encoding: str = AUTO) -> Iterator[TextIO]:
    """The file with its line ends as they are. Raises `DataError`, also for what goes wrong inside the block."""
    try:
        chosen = _detect(path) if encoding == AUTO else codecs.lookup(encoding).name
        with path.open(newline="", encoding=chosen, errors="surrogateescape") as file:
            yield file
    except LookupError as error:
        raise ParamsError(f"params.data.encoding: {error}; for instance utf-8, latin-1, cp1252 or utf-16") from error
    except UnicodeError as error:
        raise DataError(f"{path}: not valid {chosen}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check params.data.captions") from error


def lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends: LF, CR LF or CR. A form feed or U+2028 ends none."""
    for number, line in enumerate(file, start=1):
        yield number, line.rstrip("\r\n")


def _detect(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise DataError(f"{path}: the file is empty")
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) == 4 and start[1] == start[3] == 0 and start[0] and start[2]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0 and start[1] and start[3]:
        return "utf-16-be"
    return "utf-8-sig"
