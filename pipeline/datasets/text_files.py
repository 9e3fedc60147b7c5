"""Reads caption files as text or JSON in any Unicode encoding.

`auto` is UTF-8 with or without a byte-order mark, UTF-16 or UTF-32. Bytes that are not valid become lone surrogates
(PEP 383), which `make_entry` refuses: a damaged byte costs its own row, and the row is reported.
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.datasets.entries import AUTO
from pipeline.datasets.json_errors import COMMENTS, describe_json_error
from pipeline.errors import DataError, ParamsError
from pipeline.file_signatures import other_content

_SNIFFED = 1 << 18
_START = 32


@contextmanager
def open_text(path: Path, encoding: str = AUTO) -> Iterator[TextIO]:
    """Open a file, keeping its line ends. Raises `DataError`, also for errors of reading inside the block."""
    try:
        codec = _codec(read_start(path), encoding)
        with path.open(newline="", encoding=codec, errors="surrogateescape") as file:
            yield file
    except UnicodeError as error:
        raise DataError(f"{path}: not valid {codec}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check params.data.captions") from error


def decode(content: bytes, encoding: str = AUTO, errors: str = "surrogateescape") -> str:
    """The text of a file. Raises `UnicodeDecodeError`, and `ParamsError` for an unknown encoding."""
    return content.decode(_codec(content, encoding), errors)


def _codec(start: bytes, encoding: str) -> str:
    """The name of the codec of a file that starts like this."""
    if encoding == AUTO:
        return _unicode_codec(start[:4])
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError) as error:
        raise ParamsError(f"params.data.encoding: {error}; for instance utf-8, latin-1, cp1252 or utf-16") from error
    return encoding


def numbered_lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines from 1, without their ends: LF, CR LF or CR. A form feed or U+2028 does not end a line."""
    for number, line in enumerate(file, start=1):
        yield number, line.rstrip("\r\n")


def first_line(path: Path, encoding: str = AUTO) -> str:
    """The first line that is not blank, without its end; empty where all are blank. Raises `DataError`."""
    with open_text(path, encoding) as file:
        return next((text for _, text in numbered_lines(file) if text.strip()), "")


def load_json(path: Path, encoding: str = AUTO) -> Any:
    """The parsed file. Raises `DataError` with line and column of a mistake, and for a repeated key."""
    with open_text(path, encoding) as file:
        text = file.read()
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        if not error.pos and not text.startswith(COMMENTS):
            raise DataError(f"{path}, line 1, column 1: not JSON; check params.data.format") from error
        raise DataError(f"{path}, {describe_json_error(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises `ValueError`, also where an object has a key twice, of which `json` keeps the last."""
    return json.loads(text, strict=False, object_pairs_hook=_refuse_repeated_keys)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = next(key for key, _ in pairs if counts[key] > 1)
        raise ValueError(
            f"the key {key[:80]!a} occurs {counts[key]} times in one object; keep one (in captions "
            "files: merge their values)"
        )
    return content


def sniff_json(path: Path) -> str:
    """The start and the end of a JSON file, enough to tell layouts apart: ASCII keys in any Unicode encoding.

    It is empty for what is no file. Raises `DataError`.
    """
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
            file.seek(max(path.stat().st_size - _SNIFFED, file.tell()))
            content = start + file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check params.data.captions") from error
    return content.replace(b"\0", b"").decode("ascii", errors="ignore").lstrip("\ufeff \t\r\n")


def read_start(path: Path) -> bytes:
    """The first bytes. Raises `DataError` for an empty file, for one that is no text, and for a pipe or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: not a regular file; save the captions in one")
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        raise DataError(f"{path}: the file is empty")
    if words := not_text(start):
        raise DataError(f"{path}: {words}")
    return start


def not_text(start: bytes) -> str | None:
    """What a file is that starts like this and is no text, with a remedy; None for a text."""
    tables = {b"PK\x03\x04": "a zip archive or an Excel file", b"PAR1": "a Parquet file"}
    known = next((words for magic, words in tables.items() if start.startswith(magic)), None)
    return f"{known}; save the captions as CSV" if known else other_content(start)


def _unicode_codec(start: bytes) -> str:
    """The codec of a Unicode file by its first four bytes."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) == 4 and start[1] == start[3] == 0 and start[0] and start[2]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0 and start[1] and start[3]:
        return "utf-16-be"
    return "utf-8-sig"
