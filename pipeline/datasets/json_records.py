"""Reads JSON objects with an image and its captions, from JSON lines or from JSON in one of these layouts.

    {"image": ..., "caption": ...}                     one object
    [{"image": ..., "caption": ...}, ...]              a list
    {"train": [...], "val": [...]}                     a list per split, as R2Gen has it
    {"data": [...], "dataset_name": ...}               one list among other values, as TextCaps has it
    {"a.jpg": ["a dog", "a wet dog"], ...}             captions by image, or an object by image
    {"42": [{"caption": "a dog"}, ...], ...}           as coco-caption has them
    {"image": ["a.jpg", ...], "caption": [...]}        columns, as pandas writes with `to_dict("list")`
    {"image": {"0": "a.jpg", ...}, "caption": {...}}   as `to_json()` writes them
    {"columns": ["image", "caption"], "data": [...]}   and with `orient="split"`

Keys have the usual names or those in params.data (see columns.py). A caption is a text or an object with `caption` or
`raw`; a record of LLaVA has a conversation, whose answer is the caption. Several images with the same captions are a
list.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from pipeline.datasets.caption_rows import CaptionRow, caption_texts, make_row
from pipeline.datasets.columns import MissingColumnError, find_columns
from pipeline.datasets.entries import SPLIT_NAMES, Note, ReadOptions
from pipeline.datasets.text_files import numbered_lines, parse_json
from pipeline.errors import DataError

_MAX_KEYS = 1000
"""Of one image with its captions. More are, for instance, a word and a number each."""
JSON = frozenset({".json", ".jsonl", ".ndjson"})


def is_json_lines(text: str) -> bool:
    """Whether the first line is a JSON object and another one follows."""
    first, *more = re.split(r"[\r\n]+", text.strip(), maxsplit=1)
    return first.startswith("{") and first.rstrip().endswith("}") and bool(more) and more[0].lstrip().startswith("{")


def read_records(content: Any, options: ReadOptions, source: str | Path) -> Iterator[CaptionRow | Note] | None:
    """The rows of parsed JSON and notes on keys that are not read; None in JSON of something else.

    Raises `DataError` naming `source` for columns of unequal lengths.
    """
    records = _read_columns(content, options, source) or _find_records(content)
    if records is None:
        return None
    rows = (row for number, record in enumerate(records, start=1) for row in _read_record(record, options, number))
    return _with_notes(rows, source)


def read_json_lines(file: TextIO, options: ReadOptions, source: str | Path) -> Iterator[CaptionRow | Note]:
    """The rows of JSON lines and notes on keys that are not read.

    A line that is not valid JSON is a row with that problem.
    """
    return _with_notes(_read_lines(file, options), source)


def _with_notes(rows: Iterable[CaptionRow | Note], source: str | Path) -> Iterator[CaptionRow | Note]:
    """The rows, and each note once, with the name of the file."""
    noted = set()
    for row in rows:
        if not isinstance(row, Note):
            yield row
        elif row not in noted:
            noted.add(row)
            yield Note(f"{source}: {row.text}")


def _read_lines(file: TextIO, options: ReadOptions) -> Iterator[CaptionRow | Note]:
    for number, text in numbered_lines(file):
        if not text.strip():
            continue
        try:
            record = parse_json(text, line=number)
        except ValueError as error:
            yield CaptionRow(number, problem=f"{error}; JSON lines have one object per line")
        else:
            yield from _read_record(record, options, number)


def _read_columns(content: Any, options: ReadOptions, source: str | Path) -> Iterable[Any] | None:
    """The records of a table that is stored by columns; None in JSON of something else."""
    if not isinstance(content, dict):
        return None
    names, rows = content.get("columns"), content.get("data")  # `orient="split"` of pandas
    if (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    ):
        return [dict(zip(names, row, strict=True)) for row in rows]
    try:
        find_columns(tuple(content), options, "key")
    except MissingColumnError:
        return None
    columns: list[Any] = list(content.values())
    if all(isinstance(column, dict) for column in columns):  # `orient="columns"`
        first, *others = content
        for other in others:
            if different := content[first].keys() ^ content[other].keys():
                only = f"{min(different)!r:.80} is in one of them only"
                raise DataError(f"{source}: the columns {first!r} and {other!r} have different rows: {only}")
        columns = [[column[row] for row in content[first]] for column in columns]
    if not all(isinstance(column, list) and not any(isinstance(one, dict) for one in column) for column in columns):
        return None
    if len(set(map(len, columns))) > 1:
        lengths = ", ".join(f"{name[:80]!r} {len(column)}" for name, column in zip(content, columns, strict=True))
        raise DataError(f"{source}: columns of unequal lengths: {lengths}; correct the file")
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def _find_records(content: Any) -> Iterable[Any] | None:
    """The records, each an object with its image, captions and perhaps split; None in JSON of something else.

    A value that is no object is returned as it is, for the reader to skip.
    """
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or not content:
        return None
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    if lists and all(key.lower() in SPLIT_NAMES for key in lists):
        return (
            {"split": split, **record} if isinstance(record, dict) else record
            for split, records in lists.items()
            for record in records
        )
    of_objects = [value for value in lists.values() if value and all(isinstance(one, dict) for one in value)]
    captions_only = all("caption" in one and not _is_record(one) for value in of_objects for one in value)
    if captions_only and _is_record(content):
        return [content]
    if of_objects and not (captions_only and len(of_objects) == sum(value != [] for value in content.values())):
        return of_objects[0] if len(of_objects) == 1 else None
    return (
        {"image": image, **value} if isinstance(value, dict) else {"image": image, "caption": value}
        for image, value in content.items()
    )


def _is_record(content: Mapping[str, Any]) -> bool:
    """Whether an object is one image with its captions, not captions by image."""
    if len(content) > _MAX_KEYS:
        return False
    try:
        columns = find_columns(tuple(content), ReadOptions(), "key")
    except MissingColumnError:
        return False
    return isinstance(list(content.values())[columns.image], str | int)


def _read_record(record: Any, options: ReadOptions, number: int) -> Iterator[CaptionRow | Note]:
    if not isinstance(record, dict):
        yield CaptionRow(number, problem="not a JSON object")
        return
    record = _with_answer(record)
    try:
        columns = find_columns(tuple(record), options, "key")
    except MissingColumnError as error:
        yield CaptionRow(number, problem=str(error))
        return
    yield from map(Note, columns.ignored)
    values = list(record.values())
    captions: list[Any] = []
    for index in columns.captions:
        captions += values[index] if isinstance(values[index], list) else [values[index]]
    ranked = all(isinstance(one, dict) and "score" in one for one in captions)
    if columns.references is not None and isinstance(values[columns.references], list):
        values[columns.references] = caption_texts(values[columns.references])
    row = make_row(values, caption_texts(captions), columns, number, ranked=ranked)
    if isinstance(row.image, list) and row.image:
        for image in row.image:
            yield replace(row, image=image, names=(image,))
    else:
        yield row


def _with_answer(record: dict[str, Any]) -> dict[str, Any]:
    """A record of LLaVA with the only answer of its conversation as its caption; any other as it is."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or "caption" in record:
        return record
    answers = [turn.get("value") for turn in turns if isinstance(turn, Mapping) and turn.get("from") == "gpt"]
    return {**record, "caption": answers[0] if len(answers) == 1 else None}
