"""The format `table`: CSV, TSV, JSON or JSON lines with the columns image, caption and, optionally, split.

It is one file, or one per split. JSON may have other layouts, too (see json_records.py).

Columns are found by their usual names or by those in params.data (see columns.py). A caption column may be a pattern
(`caption_*`); each match is a caption of its own. A cell may also hold a list of captions, in JSON or Python syntax.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.columns import Columns, MissingColumnError, count_known_columns, find_columns
from pipeline.datasets.delimited_text import DelimitedReader, DelimitedRow
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import (
    AUTO,
    SPLIT_NAMES,
    SPLITS,
    CaptionEntry,
    Entry,
    Note,
    ReadOptions,
    SkippedEntry,
    make_entry,
    skip_entry,
)
from pipeline.datasets.image_index import ImageIndex
from pipeline.datasets.json_records import find_records, may_have_records, may_have_text_by_name
from pipeline.datasets.text_files import (
    first_line,
    load_json,
    numbered_lines,
    open_text,
    parse_json,
    read_start,
    sniff_json,
)
from pipeline.errors import DataError

DELIMITERS = (",", "\t", ";", "|")
JSON_LINES = frozenset({".jsonl", ".ndjson"})
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", ".gz")
"""Of files that are tried as tables in a folder; the last ones are named with what they are instead."""
COMMON_NAMES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "dataset.csv", "annotations.csv")
ImageNames = Callable[[], set[str]]
"""The images of a folder, without folders and suffixes; computed once, and only if needed."""
_NOT_RECORDS = "JSON, but not objects with image and caption in a known layout; see docs/datasets.md"
_NUMBER = re.compile(r"#\d+$")
"""Flickr's caption number after an image name: `name.jpg#0`."""


def detect_table(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file; in a folder, a file of a common name, one file per split, or any table with captions."""
    if path.is_file():
        yield _candidate(path, options)
        return
    names = cache(lambda: {_bare_name(name) for name in ImageIndex(path).names()})
    common = [path / name for name in COMMON_NAMES if (path / name).is_file()]
    for file in common:
        yield replace(_candidate(file, options), by_name=True)
    parts = files_by_split(path)
    if len({split for file, split in parts.items() if not _problem(file, options)}) > 1:
        yield Candidate(path, f"{', '.join(file.name for file in parts)}, one table per split")
        common += parts
    for file in (file for suffix in SUFFIXES for file in sorted(path.glob(f"*{suffix}"))):
        if file not in common:
            yield _candidate(file, options, names)


def _candidate(path: Path, options: ReadOptions, names: ImageNames | None = None) -> Candidate:
    """A file as a table. Where it may be something else, one of its images must be among `names`, if given."""
    kinds = {".json": "JSON objects", **dict.fromkeys(JSON_LINES, "JSON lines")}
    kind = kinds.get(path.suffix.lower(), "a table")
    return Candidate(path, f"{path.name}, {kind}", problem=_problem(path, options, names) or "")


def _problem(path: Path, options: ReadOptions, names: ImageNames | None = None) -> str | None:
    """Why a file is not a table of captions; None when its first entries can be read."""
    suffix = path.suffix.lower()
    start = sniff_json(path) if suffix == ".json" else ""  # it may be large
    if suffix == ".json" and not may_have_records(start) and not may_have_text_by_name(start):
        return _not_text(path) or f"{path}: {_NOT_RECORDS}"
    try:
        entries = list(islice(_read_file(path, options), 20))
    except DataError as error:
        return str(error)
    if not entries:
        return f"{path}: holds no rows"
    skipped = [entry for entry in entries if isinstance(entry, SkippedEntry)]
    if suffix in {".json", *JSON_LINES} and len(skipped) == len(entries):  # JSON of something else
        return f"{path}, line {skipped[0].line}: {skipped[0].reason}"
    images = {_bare_name(entry.image) for entry in entries if isinstance(entry, CaptionEntry)}
    if names and may_have_text_by_name(start) and images.isdisjoint(names()):
        return (
            f"{path}: JSON with texts, but no image in {path.parent} is named like one of its keys; if they are "
            "captions, name this file"
        )
    return None


def _not_text(path: Path) -> str | None:
    """Why a file cannot be read as text at all."""
    try:
        read_start(path)
    except (DataError, OSError) as error:
        return str(error)
    return None


def _bare_name(name: str) -> str:
    """The name of an image without folder, suffix and case."""
    return PurePosixPath(name).stem.casefold()


def read_table(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read a file, or a folder with one table per split.

    Raises `DataError` when a file cannot be read, lacks a column or holds no rows.
    """
    parts = files_by_split(path) if path.is_dir() else {}
    if not parts:
        yield from _read_file(path, options)
    for file, split in parts.items():
        for entry in _read_file(file, options):
            yield replace(entry, split=split) if isinstance(entry, CaptionEntry) and not entry.split else entry


def files_by_split(folder: Path) -> dict[Path, str]:
    """The tables named after a split (`train.csv`, `captions_val2.csv`), where at least two splits have one."""
    for suffix in (".csv", ".tsv", ".jsonl"):
        named = {file: split for file in sorted(folder.glob(f"*{suffix}")) if (split := _split_in(file.stem))}
        if len(set(named.values())) > 1:
            return dict(sorted(named.items(), key=lambda item: SPLITS.index(item[1])))
    return {}


def _split_in(stem: str) -> str | None:
    words = [word for word in re.split(r"[\W\d_]+", stem.lower()) if word not in {"", "captions"}]
    return SPLIT_NAMES.get(words[0]) if len(words) == 1 else None


def _read_file(path: Path, options: ReadOptions) -> Iterator[Entry]:
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        yield from _read_json_lines(path, options)
    elif suffix == ".json":
        records = find_records(load_json(path, options.encoding))
        if records is None:
            raise DataError(f"{path}: {_NOT_RECORDS}")
        for number, record in enumerate(records, start=1):
            yield from _read_record(record, options, path, number)
    else:
        yield from _read_delimited(path, options)


# Delimited text


def detect_delimiter(header: str) -> str:
    """The delimiter that gives the most known columns, else an image name in the first field, else the most fields."""

    def fit(delimiter: str) -> tuple[int, bool, int]:
        fields = header.split(delimiter)
        return count_known_columns(fields), len(fields) > 1 and is_image_name(fields[0]), len(fields)

    return max(DELIMITERS, key=fit)


def is_image_name(text: str) -> bool:
    """Whether a text ends in the suffix of an image file."""
    name = _NUMBER.sub("", text.strip().strip("\"'").replace("\\", "/"))
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _read_delimited(path: Path, options: ReadOptions) -> Iterator[Entry]:
    delimiter = detect_delimiter(first_line(path, options.encoding))
    with open_text(path, options.encoding) as file:
        reader = DelimitedReader(file, delimiter)
        rows = iter(reader)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{path}: holds no rows")
        columns = columns_without_header(first, options)
        if columns:
            rows = chain([first], rows)
            names = "image, caption, split" if columns.split else "image, caption"
            yield Note(f"{path}: has no header; its columns are read as {names}")
        else:
            columns = _columns_of_header(first, options, path)
        reader.width = columns.count
        sample = list(islice(rows, 20))
        if not sample:
            raise DataError(f"{path}: holds a header and no rows")
        _refuse_swapped_header(sample, columns, path)
        joined = 0
        for row in chain(sample, rows):
            fields = row.fields
            if len(fields) > columns.count and not row.quoted and columns.captions == (columns.count - 1,):
                last = columns.captions[0]
                fields = [*fields[:last], delimiter.join(fields[last:])]
                joined += 1
            yield from _read_row(fields, columns, path, row.line)
        if joined:
            yield Note(f"{path}: {joined} captions with an unquoted {delimiter!r} were read to the end of the line")


def _columns_of_header(header: DelimitedRow, options: ReadOptions, path: Path) -> Columns:
    try:
        return find_columns(header.fields, options, "column")
    except MissingColumnError as error:
        raise DataError(f"{path}, line 1: {error}") from error


def columns_without_header(first: DelimitedRow, options: ReadOptions) -> Columns | None:
    """The columns of a file whose first line is a row; None where it is a header."""
    fields = first.fields
    if {options.image_column, options.caption_column, options.split_column} != {AUTO} or len(fields) < 2:
        return None
    if not is_image_name(fields[0]) or is_image_name(fields[1]):
        return None
    if len(fields) == 3 and fields[2].strip().lower() in SPLIT_NAMES:
        return Columns(image=0, captions=(1,), split=2, count=3)
    return Columns(image=0, captions=(1,), split=None, count=2)


def _refuse_swapped_header(sample: Sequence[DelimitedRow], columns: Columns, path: Path) -> None:
    pairs = [
        (row.fields[columns.image], row.fields[columns.captions[0]])
        for row in sample
        if len(row.fields) == columns.count
    ]
    if pairs and all(is_image_name(caption) and not is_image_name(image) for image, caption in pairs):
        raise DataError(
            f"{path}, line 1: the header's names are swapped: the caption column holds image names; correct the header"
        )


def _read_row(fields: list[str], columns: Columns, path: Path, line: int) -> Iterator[Entry]:
    surplus = len(fields) - columns.count
    if surplus:
        image = fields[columns.image] if columns.image < len(fields) else ""
        few, many = f"{-surplus} fields too few", f"{surplus} fields too many; quote captions with commas"
        problem = many if surplus > 0 else few
        yield skip_entry(image, problem, path, line)
        return
    split = fields[columns.split] if columns.split is not None else None
    captions: list[Any] = [text for index in columns.captions for text in captions_in_cell(fields[index])]
    if len(captions) > 1:
        captions = [caption for caption in captions if caption.strip()] or [""]
    yield from _make_entries(fields[columns.image], captions, split, path, line)


def captions_in_cell(cell: str) -> list[str]:
    """The captions of a cell, which may hold a list: `["a dog", "a wet dog"]`."""
    if cell.startswith("[") and cell.rstrip().endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                captions = parse(cell)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(captions, list) and captions and all(isinstance(caption, str) for caption in captions):
                return captions
    return [cell]


# JSON


def _read_json_lines(path: Path, options: ReadOptions) -> Iterator[Entry]:
    with open_text(path, options.encoding) as file:
        for number, text in numbered_lines(file):
            if not text.strip():
                continue
            try:
                record = parse_json(text)
            except (ValueError, RecursionError) as error:
                yield skip_entry("", f"not valid JSON: {str(error)[:100]}", path, number)
                continue
            yield from _read_record(record, options, path, number)


def _read_record(record: Any, options: ReadOptions, path: Path, number: int) -> Iterator[Entry]:
    if not isinstance(record, dict):
        yield skip_entry("", "not a JSON object", path, number)
        return
    keys = list(record)
    try:
        columns = find_columns(keys, options, "key")
    except MissingColumnError as error:
        yield skip_entry("", str(error), path, number)
        return
    image = record[keys[columns.image]]
    captions: list[Any] = []
    for index in columns.captions:
        value = record[keys[index]]
        captions += value if isinstance(value, list) else [value]
    split = record[keys[columns.split]] if columns.split is not None else None
    for one in image if isinstance(image, list) else [image]:  # several images of one report
        if captions:
            yield from _make_entries(one, captions, split, path, number)
        else:
            yield skip_entry(one if isinstance(one, str) else "", "the list of captions is empty", path, number)


def _make_entries(image: Any, captions: list[Any], split: Any, path: Path, line: int) -> Iterator[Entry]:
    if type(image) is int:
        image = str(image)
    if isinstance(image, str):
        image = _NUMBER.sub("", image.strip())
    name = None
    if split is not None and str(split).strip():
        name = SPLIT_NAMES.get(str(split).strip().lower())
        if name is None:
            problem = f"split must be one of {', '.join(SPLITS)}, got {str(split)[:40]!a}"
            yield skip_entry(image if isinstance(image, str) else "", problem, path, line)
            return
    for caption in captions:
        yield make_entry(image, caption, name, path, line)
