"""Reads caption files as text or JSON in any Unicode encoding.

`auto` is UTF-8 with or without a byte-order mark, UTF-16 or UTF-32. Bytes that are not valid become lone surrogates
(PEP 383), which `make_entry` refuses: a damaged byte costs its own row, and the row is reported.
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pipeline.datasets.entries import AUTO
from pipeline.errors import DataError, ParamsError
from pipeline.file_signatures import other_content

_SNIFFED = 1 << 18
_START = 32
_TABLES = {
    b"PK\x03\x04": "a zip archive or an Excel file; save the captions as CSV",
    b"PAR1": "a Parquet file; save the captions as CSV",
}
"""What a file is that starts like this, and the remedy."""


@contextmanager
def open_text(path: Path, encoding: str = AUTO) -> Iterator[TextIO]:
    """Open a file, keeping its line ends. Raises `DataError`, also for errors of reading inside the block."""
    try:
        codec = _codec(_read_start(path), encoding)
        with path.open(newline="", encoding=codec, errors="surrogateescape") as file:
            yield file
    except UnicodeError as error:
        raise DataError(f"{path}: not valid {codec}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def decode(content: bytes, encoding: str) -> str:
    """The text of a file. Raises `UnicodeDecodeError`, and `ParamsError` for an unknown encoding."""
    return content.decode(_codec(content, encoding), "surrogateescape")


def _codec(start: bytes, encoding: str) -> str:
    """The name of the codec of a file that starts like this."""
    if encoding == AUTO:
        codec = json.detect_encoding(start[:4])  # by a byte-order mark, or by the place of the zeros in UTF-16 and 32
        return "utf-8" if codec.startswith("utf-16-") and start[:4].count(0) == 1 else codec  # a zero alone is damage
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError) as error:
        raise ParamsError(f"params.data.encoding: {error}; for instance utf-8, latin-1, cp1252 or utf-16") from error
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding  # without the byte-order mark


def numbered_lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines from 1, without their ends: LF, CR LF or CR. A form feed or U+2028 does not end a line."""
    for number, line in enumerate(file, start=1):
        yield number, line.rstrip("\r\n")


def first_line(path: Path, encoding: str = AUTO) -> str:
    """The first line that is not blank, without its end; empty where all are blank. Raises `DataError`."""
    with open_text(path, encoding) as file:
        return next((text for _, text in numbered_lines(file) if text.strip()), "")


def read_text(path: Path, encoding: str = AUTO) -> str:
    """The text of a file with its line ends. Raises `DataError`."""
    with open_text(path, encoding) as file:
        return file.read()


def load_json(path: Path, encoding: str) -> Any:
    """The parsed file. Raises `DataError` with line and column of a mistake, and for a repeated key."""
    text = read_text(path, encoding)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def parse_json(text: str, *, line: int = 1) -> Any:
    """Parse JSON that starts in a line of a file.

    Raises `ValueError` with the place, also where an object has a key twice, of which `json` keeps the last.
    """
    try:
        return json.loads(text, strict=False, object_pairs_hook=_refuse_repeated_keys)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].split()
        is_cut = not rest or error.msg.startswith("Unterminated")
        problem = "it ends too early; copy or download the file again" if is_cut else f"{error.msg} at {rest[0][:40]!a}"
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"not valid JSON in {place}: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from error


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        ((key, count),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:80]!a} occurs {count} times in one object; keep one, with the values of all")
    return content


def sniff_json(path: Path) -> str:
    """The start and the end of a JSON file, enough to tell layouts apart: ASCII keys in any Unicode encoding.

    It is empty for what is no file or cannot be read.
    """
    content = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                content = file.read(_SNIFFED)
                file.seek(max(path.stat().st_size - _SNIFFED, file.tell()))
                content += file.read()
    return content.replace(b"\0", b"").decode("ascii", errors="ignore").lstrip("\ufeff \t\r\n")


def _read_start(path: Path) -> bytes:
    """The first bytes. Raises `DataError` for an empty file, for one that is no text, and for a pipe or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: not a regular file; save the captions in one")
    with path.open("rb") as file:
        start = file.read(_START)
    if not start:
        raise DataError(f"{path}: the file is empty")
    if words := _TABLES.get(start[:4]) or other_content(start):
        raise DataError(f"{path}: {words}")
    return start
