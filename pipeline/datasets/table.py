"""Reader of `data.format: table`: CSV, TSV or JSON lines with the columns image, caption and (optionally) split, in
one file or in one for each split.

Columns are found by the names that people give them, or by those in params.data; a caption column may be a pattern
(`caption_*`), each match a caption of its own.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.delimited_text import Record, Records
from pipeline.datasets.entries import SPLIT_NAMES, SPLITS, Entry, Note, Row, make_row, skip
from pipeline.datasets.jsonstream import elements
from pipeline.datasets.text_files import AUTO, lines, open_text
from pipeline.errors import DataError

DELIMITERS = (",", "\t", ";", "|")
JSON_LINES = frozenset({".jsonl", ".ndjson"})
SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Of the files that are taken for tables in a folder."""
KNOWN = {
    "image": ("image", "file_name", "filename", "image_name", "image_path", "image_file", "img", "path", "file"),
    "caption": (
        "caption",
        "captions",
        "text",
        "comment",
        "description",
        "sentence",
        "caption_*",
        "comment_*",
        "text_*",
    ),
    "split": ("split", "set", "partition", "subset"),
}
"""What a column called `auto` is looked for as, the first that is there."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns; `auto` for those in `KNOWN`."""

    image: str = AUTO
    caption: str = AUTO
    split: str = AUTO


@dataclass(frozen=True)
class _Places:
    """Which of the fields mean what."""

    image: int
    captions: list[int]
    split: int | None
    width: int


def read_table(path: Path, *, encoding: str = AUTO, columns: Columns = Columns()) -> Iterator[Entry]:
    """`path` is a file, or a folder with `split_tables`.

    Raises `DataError` when a file cannot be read, lacks a column or has a header alone.
    """
    parts = split_tables(path) if path.is_dir() else {}
    for file, split in parts.items() if parts else [(path, None)]:
        for entry in _read_file(file, encoding, columns):
            yield replace(entry, split=split) if split and isinstance(entry, Row) and not entry.split else entry


def split_tables(folder: Path) -> dict[Path, str]:
    """The splits of the tables that are named after one (`train.csv`, `captions_val2.csv`), where two are there."""
    for suffix in SUFFIXES:
        named = {file: split for file in sorted(folder.glob(f"*{suffix}")) if (split := _split_named(file.stem))}
        if len(set(named.values())) > 1:
            return dict(sorted(named.items(), key=lambda one: SPLITS.index(one[1])))
    return {}


def _split_named(stem: str) -> str | None:
    words = [word for word in re.split(r"[\W\d_]+", stem.lower()) if word not in {"", "captions"}]
    return SPLIT_NAMES.get(words[0]) if len(words) == 1 else None


def _read_file(path: Path, encoding: str, columns: Columns) -> Iterator[Entry]:
    if path.suffix.lower() in JSON_LINES:
        yield from _read_json_lines(path, encoding, columns)
    elif path.suffix.lower() == ".json":
        for _, number, record in elements(path, {""}, encoding):
            if number:
                yield from _json_entries(record, columns, path, number)
    else:
        yield from _read_delimited(path, encoding, columns)


def delimiter_of(first_line: str) -> str:
    """What parts a header into known columns, else a picture's name from the rest; else the most frequent."""

    def fit(delimiter: str) -> tuple[int, bool, int]:
        fields = first_line.split(delimiter)
        return _known_in(fields), len(fields) > 1 and is_picture_name(fields[0]), len(fields)

    return max(DELIMITERS, key=fit)


def is_picture_name(text: str) -> bool:
    return PurePosixPath(text.strip().strip("\"'").replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _known_in(fields: Sequence[str]) -> int:
    names = [_name(field) for field in fields]
    return sum(_first_match(names, KNOWN[what]) != [] for what in KNOWN)


def _read_delimited(path: Path, encoding: str, columns: Columns) -> Iterator[Entry]:
    with open_text(path, encoding) as file:
        delimiter = delimiter_of(file.readline().rstrip("\r\n"))
    with open_text(path, encoding) as file:
        table = Records(file, delimiter)
        source = iter(table)
        first = next(source, None)
        if first is None:
            raise DataError(f"{path}: holds no rows")
        headless = _headless(first, columns)
        places = headless or _places(first.fields, columns, path)
        table.width = places.width
        if headless:
            read_as = "image, caption, split" if headless.split else "image, caption"
            yield Note(f"{path}: has no header; its columns are read as {read_as}")
            source = chain([first], source)
        joined = 0
        sample = list(islice(source, 20))
        if not sample:
            raise DataError(f"{path}: holds a header and no rows")
        _refuse_swapped(sample, places, path)
        for record in chain(sample, source):
            fields = record.fields
            if len(fields) > places.width and not record.quoted and places.captions == [places.width - 1]:
                last = places.captions[0]
                fields = [*fields[:last], delimiter.join(fields[last:])]
                joined += 1
            yield from _delimited_entries(fields, places, path, record.line)
        if joined:
            yield Note(f"{path}: {joined} captions with an unquoted {delimiter!r} were read to the end of the line")


def _refuse_swapped(sample: Sequence[Record], places: _Places, path: Path) -> None:
    """Raises `DataError` when pictures stand under the caption's column, row by row."""
    pairs = [
        (record.fields[places.image], record.fields[places.captions[0]])
        for record in sample
        if len(record.fields) == places.width
    ]
    if pairs and all(is_picture_name(caption) and not is_picture_name(image) for image, caption in pairs):
        raise DataError(
            f"{path}, line 1: the header's names are swapped: the pictures stand under the caption's column; "
            "mend the first line"
        )


def _headless(first: Record, columns: Columns) -> _Places | None:
    """The columns of a file whose first line is a row already; None where it is a header."""
    fields = first.fields
    if {columns.image, columns.caption, columns.split} != {AUTO} or len(fields) < 2:
        return None
    if not is_picture_name(fields[0]) or is_picture_name(fields[1]):
        return None
    with_split = len(fields) == 3 and fields[2].strip().lower() in SPLIT_NAMES
    return _Places(0, [1], 2 if with_split else None, 3 if with_split else 2)


def _name(field: str) -> str:
    """A column's name as it is compared: `Image Name` is `image_name`."""
    return "_".join(field.strip().strip("\"'\ufeff").lower().split())


def _first_match(names: Sequence[str], candidates: Sequence[str]) -> list[int]:
    """The places of the first candidate (a name or pattern) that is there."""
    for candidate in candidates:
        found = [place for place, name in enumerate(names) if fnmatchcase(name, candidate)]
        if found:
            return found
    return []


def _candidates(columns: Columns, what: str) -> Sequence[str]:
    asked: str = getattr(columns, what)
    return KNOWN[what] if asked == AUTO else (_name(asked),)


def _places(header: list[str], columns: Columns, path: Path) -> _Places:
    names = [_name(field) for field in header]
    found = {what: _first_match(names, _candidates(columns, what)) for what in KNOWN}
    missing = [what for what in KNOWN if not found[what] and (what != "split" or columns.split != AUTO)]
    if missing:
        shown = str([field.strip() for field in header])[:300]
        raise DataError(f"{path}, line 1: no column {_lacking(missing, columns, f'the header is {shown}')}")
    captions = [place for place in found["caption"] if place != found["image"][0]]
    return _Places(found["image"][0], captions, next(iter(found["split"]), None), len(header))


def _lacking(missing: Sequence[str], columns: Columns, there: str) -> str:
    """The names that were looked for in vain, what is `there` instead, and what to do."""
    names = " and ".join(getattr(columns, what).replace(AUTO, what) for what in missing)
    params = " and ".join(f"{what}_column" for what in missing)
    return f"{names}; {there}; name the columns with params.data.{params} (auto: the usual names)"


def _delimited_entries(fields: list[str], places: _Places, path: Path, line: int) -> Iterator[Entry]:
    surplus = len(fields) - places.width
    if surplus:
        image = fields[places.image] if places.image < len(fields) else ""
        wrong = (
            f"{surplus} fields too many; quote captions with commas" if surplus > 0 else f"{-surplus} fields too few"
        )
        yield skip(image, wrong, path, line)
        return
    split = fields[places.split] if places.split is not None else None
    captions: list[Any] = [fields[place] for place in places.captions]
    if len(captions) > 1:
        captions = [caption for caption in captions if caption.strip()] or [""]
    yield from _entries(fields[places.image], captions, split, path, line)


def _entries(image: Any, captions: list[Any], split: Any, path: Path, line: int) -> Iterator[Entry]:
    name = None
    if split is not None and str(split).strip():
        name = SPLIT_NAMES.get(str(split).strip().lower())
        if name is None:
            image = image if isinstance(image, str) else ""
            yield skip(image, f"split must be one of {', '.join(SPLITS)}, got {str(split)[:40]!a}", path, line)
            return
    for caption in captions:
        yield make_row(image, caption, name, path, line)


def _read_json_lines(path: Path, encoding: str, columns: Columns) -> Iterator[Entry]:
    with open_text(path, encoding) as file:
        for number, text in lines(file):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield skip("", f"not valid JSON: {str(error)[:100]}", path, number)
                continue
            yield from _json_entries(record, columns, path, number)


def _json_entries(record: Any, columns: Columns, path: Path, line: int) -> Iterator[Entry]:
    if not isinstance(record, dict):
        yield skip("", "not a JSON object", path, line)
        return
    keys = list(record)
    names = [_name(key) for key in keys]
    found = {what: [keys[n] for n in _first_match(names, _candidates(columns, what))] for what in KNOWN}
    if not found["image"] or not found["caption"]:
        missing = [what for what in ("image", "caption") if not found[what]]
        there = f"the keys are {', '.join(keys)[:100]!a}"
        yield skip("", f"no key {_lacking(missing, columns, there)}", path, line)
        return
    image = record[found["image"][0]]
    captions: list[Any] = []
    for key in found["caption"]:
        captions += record[key] if isinstance(record[key], list) else [record[key]]
    if not captions:
        yield skip(image if isinstance(image, str) else "", "the list of captions is empty", path, line)
        return
    split = record[found["split"][0]] if found["split"] else None
    yield from _entries(image, captions, split, path, line)
