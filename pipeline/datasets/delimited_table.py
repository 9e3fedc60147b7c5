"""Reads a table of captions in delimited text, with or without a header.

Columns are found by their usual names or by those in params.data (see columns.py). A caption column may be a pattern
(`caption_*`); each match is a caption of its own. A cell may also hold a list of captions, as JSON, Python or
NumPy write it; each may be an object, as in JSON (see json_records.py).
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.caption_rows import CaptionRow, caption_texts, make_row
from pipeline.datasets.columns import Columns, MissingColumnError, count_known_columns, find_columns
from pipeline.datasets.delimited_text import DelimitedReader, DelimitedRow
from pipeline.datasets.entries import AUTO, SPLIT_NAMES, Note, ReadOptions, without_caption_number
from pipeline.datasets.text_files import numbered_lines
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names

DELIMITERS = (",", "\t", ";", "|")
_NAMED_DELIMITER = re.compile(r"sep=(.)", re.IGNORECASE)
"""The first line of a table that names the delimiter, as Excel reads and writes it."""
_DATA = re.compile(r"""\s*(?:(?:[\[({]\s*)+b?['"]|\[?array\(|b(['"]).*\1\s*$)""", re.DOTALL)
"""The start of a list or an object of JSON, Python or NumPy with strings in it, or bytes; `[a sign]` is a caption."""
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'" r'|"(?:[^"\\]|\\.)*"', re.DOTALL)
_STRINGS = re.compile(
    rf"\s*[\[(]\s*(?:{_STRING.pattern})(?:(?:\s*,\s*|\s+)(?:{_STRING.pattern}))*[\s,]*[\])]\s*", re.DOTALL
)
"""A list of strings that Python wrote, or NumPy, without commas, where Python would join them."""
_NUMBER = re.compile(r"\d+")
_QUOTED = re.compile(r'\s*"([^"]*)"\s*')
_SAMPLE = 20
"""Rows that are checked before the first one is returned."""
_IN_QUOTES = 'the whole line is in quotes; remove the outer quotes of each such line, and write each "" in it as "'


def read_delimited(file: TextIO, options: ReadOptions, source: str | Path) -> Iterator[CaptionRow | Note]:
    """Read a table. Raises `DataError` naming `source` where it lacks a column or holds no rows."""
    lines, delimiter, comments = _find_start(numbered_lines(file), options, source)
    if comments:
        above = counted(comments, "line that starts with # is", "lines that start with # are")
        yield Note(f"{source}: {above} above the header and {'is' if comments == 1 else 'are'} not read")
    reader = DelimitedReader(lines, delimiter)
    rows = iter(reader)
    first = next(rows)
    columns = _columns_without_header(first, options)
    if columns:
        rows = chain([first], rows)
        names = "image, caption, split" if columns.split else "image, caption"
        yield Note(f"{source}: has no header; its columns are read as {names}")
    else:
        columns = _columns_of_header(first, options, source)
        yield from (Note(f"{source}: {ignored}") for ignored in columns.ignored)
    reader.width, reader.holds_rows = columns.count, partial(_hold_rows, columns=columns, delimiter=delimiter)
    sample = list(islice(rows, _SAMPLE))
    if not sample:
        raise DataError(f"{source}: holds a header and no rows")
    _refuse_swapped_header(sample, columns, source)
    unnamed = [index for index, name in enumerate(first.fields) if index and not name.strip()]
    joined = unread = 0
    for row in chain(sample, rows):
        fields = row.fields
        if not any(field.strip() for field in fields):  # a blank row of a spreadsheet
            continue
        if len(fields) > columns.count and not row.quoted and columns.captions == (columns.count - 1,):
            last = columns.captions[0]
            fields = [*fields[:last], delimiter.join(fields[last:])]
            joined += 1
        if not row.quoted and '"' in delimiter.join(fields):
            fields = [
                field if index in columns.captions or not (quoted := _QUOTED.fullmatch(field)) else quoted[1]
                for index, field in enumerate(fields)
            ]
        unread += any(fields[index].strip() for index in unnamed if index < len(fields))
        yield _read_row(fields, columns, row.line)
    if unread:
        rows_with, where = counted(unread, "row has", "rows have"), shown_names([str(index + 1) for index in unnamed])
        yield Note(f"{source}: {rows_with} text in a column without a name ({where}), which is not read")
    if reader.unclosed:
        rows_with = counted(len(reader.unclosed), "row has", "rows have")
        place = f"the first in line {reader.unclosed[0]}"
        yield Note(f"{source}: {rows_with} a quote that is not closed, {place}; the quote is kept as text")
    if joined:
        captions = counted(joined, "caption was", "captions were")
        reason = f"because of a {delimiter!r} outside of closed quotes"
        yield Note(f"{source}: {captions} read to the end of the line, {reason}")


def _find_start(
    lines: Iterator[tuple[int, str]], options: ReadOptions, source: str | Path
) -> tuple[Iterator[tuple[int, str]], str, int]:
    """The lines from the header on, the delimiter, and the number of comments above. Raises `DataError`.

    The last comment is the header where it names the columns and the line below does not.
    """
    named = None
    comments: list[tuple[int, str]] = []
    for number, text in lines:
        bare = text[1:].lstrip()
        if found := _NAMED_DELIMITER.fullmatch(text):
            named = found[1]
        elif text.startswith("#") and (
            text[1:2] == " " or _is_header(bare, options) or not any(one in text for one in DELIMITERS)
        ):
            comments.append((number, bare))
        elif text.strip():
            start = [(number, text)]
            if comments and _is_header(comments[-1][1], options) and not _is_header(text, options):
                start.insert(0, comments.pop())
            return chain(start, lines), named or detect_delimiter(start[0][1]), len(comments)
    raise DataError(f"{source}: holds no rows")


def _is_header(text: str, options: ReadOptions) -> bool:
    """Whether a line names the columns."""
    with suppress(MissingColumnError):
        return bool(find_columns(tuple(text.split(detect_delimiter(text))), options, "column"))
    return False


def detect_delimiter(header: str) -> str:
    """The delimiter that gives the most known columns, else an image name in the first field, else the most fields."""

    def fit(delimiter: str) -> tuple[int, bool, int]:
        fields = header.split(delimiter)
        return count_known_columns(fields), len(fields) > 1 and is_image_name(fields[0]), len(fields)

    return max(DELIMITERS, key=fit)


def is_image_name(text: str) -> bool:
    """Whether a text ends in the suffix of an image file."""
    name = without_caption_number(text.strip().strip("\"'").replace("\\", "/"))
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _columns_of_header(header: DelimitedRow, options: ReadOptions, source: str | Path) -> Columns:
    if _is_in_quotes(header.fields):
        raise DataError(f"{source}, line {header.line}: {_IN_QUOTES}: {header.fields[0][:80]!r}")
    if len(header.fields) == 1:
        raise DataError(
            f"{source}, line {header.line}: one column, {header.fields[0][:80]!r}; separate the image and the caption "
            "by a comma, a tab, ; or |"
        )
    try:
        return find_columns(tuple(header.fields), options, "column")
    except MissingColumnError as error:
        row = "" if count_known_columns(header.fields) else "; if this line is a row, write the header above it"
        raise DataError(f"{source}, line {header.line}: {error}{row}") from error


def _is_in_quotes(fields: Sequence[str]) -> bool:
    """Whether a row was a single field with delimiters, as of a table that was saved twice."""
    return len(fields) == 1 and any(one in fields[0] for one in DELIMITERS[:3])


def _columns_without_header(first: DelimitedRow, options: ReadOptions) -> Columns | None:
    """The columns of a file whose first line is a row; None where it is a header."""
    fields = first.fields
    if {options.image_column, options.caption_column, options.split_column} != {AUTO} or len(fields) < 2:
        return None
    if not is_image_name(fields[0]) or is_image_name(fields[1]):
        return None
    has_split = len(fields) == 3 and fields[2].strip().lower() in SPLIT_NAMES
    return Columns(image=0, captions=(1,), split=2 if has_split else None, count=3 if has_split else 2, names=(0,))


def _hold_rows(lines: Sequence[str], fields: Sequence[str], *, columns: Columns, delimiter: str) -> bool:
    """Whether the lines of a row are several rows: they have images in their column.

    These are names with a suffix or, in lines with all columns, names that differ from the row's own in numbers only.
    """
    own = _NUMBER.sub("0", fields[columns.image].strip())
    found = 0
    for line in lines:
        texts = line.split(delimiter)
        if len(texts) > max(columns.image, 1):
            name = texts[columns.image]
            numbered = "0" in own and len(texts) >= columns.count and _NUMBER.sub("0", name.strip()) == own
            found += numbered or is_image_name(name)
    return found > 1


def _refuse_swapped_header(sample: Sequence[DelimitedRow], columns: Columns, source: str | Path) -> None:
    pairs = [
        (row.fields[columns.image], row.fields[columns.captions[0]])
        for row in sample
        if len(row.fields) == columns.count
    ]
    if pairs and all(is_image_name(caption) and not is_image_name(image) for image, caption in pairs):
        raise DataError(
            f"{source}, line 1: the header's names are swapped: the caption column holds image names; correct the "
            "header"
        )


def _read_row(fields: list[str], columns: Columns, line: int) -> CaptionRow:
    if len(fields) != columns.count:
        image = fields[columns.image] if columns.image < len(fields) else ""
        if _is_in_quotes(fields):
            return CaptionRow(line, image, problem=_IN_QUOTES)
        problem = f"{counted(len(fields), 'field')} instead of {columns.count}; "
        fewer = "complete the row or delete it, and close each quote"
        more = 'quote captions with commas, close each quote, and write one in them as ""'
        return CaptionRow(line, image, problem=problem + (fewer if len(fields) < columns.count else more))
    captions: list[str] = []
    for index in columns.captions:
        found = _captions_in_cell(fields[index])
        if found is None:
            problem = 'neither a caption nor a list of captions; write a list as JSON: ["a dog", "a wet dog"]'
            return CaptionRow(line, fields[columns.image], problem=problem)
        captions += found
    if len(captions) > 1:
        captions = [caption for caption in captions if caption.strip()] or [""]
    row = make_row(fields, captions, columns, line)
    references = None if columns.references is None else _captions_in_cell(fields[columns.references])
    return replace(row, references=references) if references and references != [row.references] else row


def _captions_in_cell(cell: str) -> list[str] | None:
    """The captions of a cell, which may hold a list: `["a dog", "a wet dog"]`. None for data that is no such list."""
    if not _DATA.match(cell):
        return [cell]
    for parse in (json.loads, _parse_python):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            content = parse(cell)
            captions = caption_texts(content if isinstance(content, list) else [content])
            if all(isinstance(caption, str) for caption in captions):
                return captions
    return [cell] if cell.lstrip().startswith("(") else None  # a caption may begin with a quotation in parentheses


def _parse_python(cell: str) -> Any:
    if _STRINGS.fullmatch(cell):
        return [ast.literal_eval(string) for string in _STRING.findall(cell)]
    return ast.literal_eval(cell)
