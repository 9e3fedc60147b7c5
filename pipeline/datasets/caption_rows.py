"""Rows of files with captions: one image with its captions each, in the layouts that captioners and datasets write.

A file is JSON, JSON lines or delimited text. Its columns or keys have the names that datasets use (see columns.py):

    [{"image_id": 42, "caption": "..."}, ...]                       COCO's results; also in an object or as JSON lines
    {"image": "a.jpg", "captions": [{"caption": "..."}], ...}       the lines of `captioner predict --json`
    {"images": [...], "annotations": [...]}                         COCO's annotations
    {"images": [{"filename": ..., "sentences": [...]}, ...]}        Karpathy's file
    {"a.jpg": ["...", "..."]}, {"42": "..."}, {"42": [{"caption": "..."}]}
    image,caption                                                   CSV, TSV, `;` or `|`; Flickr8k's token file

A table with a column `references`, such as metrics/captions.csv, holds both captions and references.
"""

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.columns import USUAL_NAMES, MissingColumnError, find_columns, normalize_column
from pipeline.datasets.delimited_text import DelimitedReader
from pipeline.datasets.entries import SPLIT_NAMES, ReadOptions
from pipeline.datasets.joined_references import split_references
from pipeline.datasets.json_records import find_records
from pipeline.datasets.table import captions_in_cell, columns_without_header, detect_delimiter
from pipeline.datasets.text_files import parse_json
from pipeline.errors import DataError

_SHOWN_KEYS = 5
_NUMBER = re.compile(r"#\d+$")
"""Flickr's caption number after an image name: `name.jpg#0`."""
_EXPECTED = "expected an image and a caption under their usual names, such as image_id or image, and caption"


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """The captions of one image in one place of a file."""

    names: tuple[str, ...]
    captions: tuple[str, ...]
    place: str
    split: str | None = None
    references: tuple[str, ...] | None = None


def read_rows(text: str, source: str, notes: list[str]) -> Iterator[CaptionRow]:
    """The rows of a file's content; appends to `notes` what the user should know."""
    start = text.lstrip()[:1]
    if not start:
        raise DataError(f"{source}: the file is empty")
    if start not in "[{":
        return _table_rows(text, source, notes)
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        if start == "{" and error.msg == "Extra data":
            return _line_rows(text, source)
        raise DataError(f"{source}: not valid JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON: {error}") from error
    return _json_rows(content, source)


def _line_rows(text: str, source: str) -> Iterator[CaptionRow]:
    """JSON lines."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{source}, line {number}"
            try:
                record = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not valid JSON: {error}") from error
            yield from _record_rows(record, place)


def _json_rows(content: Any, source: str) -> Iterator[CaptionRow]:
    if isinstance(content, dict):
        images, annotations = content.get("images"), content.get("annotations")
        if isinstance(annotations, list):
            yield from _coco_rows(images if isinstance(images, list) else [], annotations, source)
            return
        if isinstance(images, list) and all(isinstance(image, dict) and "sentences" in image for image in images):
            yield from _karpathy_rows(images, source)
            return
        if _is_record(content):
            yield from _record_rows(content, f"{source}, line 1")
            return
        if _is_by_image(content):
            records: Iterable[Any] | None = ({"image": name, "caption": one} for name, one in content.items())
        else:
            records = find_records(content) if content else ()
    else:
        records = find_records(content)
    if records is None:
        keys = ", ".join(map(repr, list(content)[:_SHOWN_KEYS]))
        raise DataError(f"{source}: JSON in an unknown layout, with the keys {keys}; {_EXPECTED}")
    for number, record in enumerate(records, start=1):
        yield from _record_rows(record, f"{source}, entry {number}")


def _is_record(content: Mapping[str, Any]) -> bool:
    """Whether an object is one image with its captions, not captions by image."""
    try:
        columns = find_columns(list(content), ReadOptions(), "key")
    except MissingColumnError:
        return False
    return isinstance(list(content.values())[columns.image], str | int)


def _is_by_image(content: Mapping[str, Any]) -> bool:
    """Whether an object is `{"42": [{"caption": ...}]}`, as coco-caption holds captions."""
    return bool(content) and all(
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and "caption" in one and not _is_record(one) for one in value)
        for value in content.values()
    )


def _coco_rows(images: list[Any], annotations: list[Any], source: str) -> Iterator[CaptionRow]:
    names: dict[str, list[str]] = defaultdict(list)
    for image in images:
        if (
            isinstance(image, dict)
            and isinstance(image.get("file_name"), str)
            and isinstance(image.get("id"), str | int)
        ):
            names[str(image["id"])].append(image["file_name"])
    for number, annotation in enumerate(annotations, start=1):
        place = f"{source}, annotation {number}"
        content = annotation if isinstance(annotation, dict) else {}
        image, caption = content.get("image_id"), content.get("caption")
        if not isinstance(image, int | str) or not isinstance(caption, str):
            raise DataError(f"{place}: expected an object with image_id and caption, got {annotation!r:.80}")
        yield CaptionRow((str(image), *names[str(image)]), (caption,), place)


def _karpathy_rows(images: list[dict[str, Any]], source: str) -> Iterator[CaptionRow]:
    for number, image in enumerate(images, start=1):
        place = f"{source}, image {number}"
        name, folder, coco_id = image.get("filename"), image.get("filepath"), image.get("cocoid")
        sentences = image["sentences"] if isinstance(image["sentences"], list) else []
        captions = [one.get("raw") for one in sentences if isinstance(one, dict)]
        if not isinstance(name, str) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{place}: expected a filename and sentences with raw text, got {image!r:.80}")
        names = [f"{folder}/{name}", name] if isinstance(folder, str) and folder else [name]
        names += [str(coco_id)] if isinstance(coco_id, int | str) else []
        yield CaptionRow(
            tuple(names), tuple(map(str, captions)), place, SPLIT_NAMES.get(str(image.get("split")).lower())
        )


def _record_rows(record: Any, place: str) -> Iterator[CaptionRow]:
    """A JSON object with an image, or a list of images, and its captions."""
    if not isinstance(record, dict):
        raise DataError(f"{place}: {_EXPECTED}, got {record!r:.80}")
    keys = list(record)
    try:
        columns = find_columns(keys, ReadOptions(), "key")
    except MissingColumnError as error:
        raise DataError(f"{place}: {_EXPECTED}; the keys are {', '.join(map(repr, keys))[:200]}") from error
    image = record[keys[columns.image]]
    of_images = image if isinstance(image, list) else [[record[keys[index]] for index in _image_columns(keys)]]
    for values in of_images:
        names = _names(values if isinstance(values, list) else [values])
        if not names:
            raise DataError(f"{place}: the image's name is not text: {image!r:.80}")
        if record.get("error"):
            raise DataError(f"{place}: {names[0]} has no caption: {str(record['error'])[:200]}")
        captions = [text for index in columns.captions for text in _texts(record[keys[index]], names[0], place)]
        split = None if columns.split is None else SPLIT_NAMES.get(str(record[keys[columns.split]]).lower())
        yield CaptionRow(names, tuple(captions), place, split)


def _texts(value: Any, image: str, place: str) -> list[str]:
    """The captions in a JSON value: text, an object with `caption`, or a list of either."""
    values = value if isinstance(value, list) else [value]
    if values and all(isinstance(one, dict) and "score" in one for one in values):
        values = values[:1]  # of `captioner predict --num-captions`, best first
    texts = [one.get("caption") if isinstance(one, dict) else one for one in values]
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{place}: the caption of {image} is not text: {value!r:.80}")
    return [str(text) for text in texts]


def _table_rows(text: str, source: str, notes: list[str]) -> Iterator[CaptionRow]:
    first_line = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    delimiter = detect_delimiter(first_line)
    reader = DelimitedReader(io.StringIO(text, newline=""), delimiter)
    rows = iter(reader)
    first = next(rows)
    options = ReadOptions()
    columns = columns_without_header(first, options)
    header = [] if columns else first.fields
    if columns:
        rows = iter([first, *rows])
    else:
        try:
            columns = find_columns(header, options, "column")
        except MissingColumnError as error:
            raise DataError(
                f"{source}: neither JSON nor a table with columns of usual names, such as image and caption; it starts "
                f"with {first_line[:60]!r}"
            ) from error
    reader.width = columns.count
    at = {normalize_column(name): index for index, name in enumerate(header)}
    joined = 0
    for row in rows:
        place, fields = f"{source}, line {row.line}", row.fields
        if len(fields) > columns.count and not row.quoted and columns.captions == (columns.count - 1,):
            fields = [*fields[: columns.count - 1], delimiter.join(fields[columns.count - 1 :])]
            joined += 1
        if len(fields) != columns.count:
            raise DataError(
                f"{place}: {len(fields)} fields, the header has {columns.count}; quote captions that hold one"
            )
        names = _names([fields[index] for index in _image_columns(header) or [columns.image]])
        if not names:
            raise DataError(f"{place}: the image has no name")
        if "error" in at and fields[at["error"]]:  # written by `captioner predict --csv`
            raise DataError(
                f"{place}: {names[0]} has an error and no caption: {fields[at['error']][:200]}; delete such rows, or "
                "caption their images again"
            )
        captions = [caption for index in columns.captions for caption in captions_in_cell(fields[index])]
        if len(columns.captions) > 1:
            captions = [caption for caption in captions if caption.strip()]
        yield CaptionRow(
            names,
            tuple(captions),
            place,
            None if columns.split is None else SPLIT_NAMES.get(fields[columns.split].strip().lower()),
            split_references(fields[at["references"]]) if "references" in at else None,
        )
    if joined:
        notes.append(f"{source}: {joined} captions with an unquoted {delimiter!r} were read to the end of the line")


def _image_columns(header: Sequence[str]) -> list[int]:
    """The columns that may name an image, ids first."""
    names = [normalize_column(name) for name in header]
    return [names.index(name) for name in ("image_id", "img_id", *USUAL_NAMES["image"]) if name in names]


def _names(values: Iterable[Any]) -> tuple[str, ...]:
    """The names of an image without repetition and without Flickr's caption number; none where no value is a name."""
    texts = [
        _NUMBER.sub("", str(value).strip())
        for value in values
        if isinstance(value, str | int) and not isinstance(value, bool)
    ]
    return tuple(dict.fromkeys(text for text in texts if text))
