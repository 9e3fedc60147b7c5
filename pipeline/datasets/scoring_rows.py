"""Reads files of captions or references for scoring, in the layouts that captioners and datasets write.

Unlike the readers of datasets, which skip an unusable row, this one refuses the file.

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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pipeline.datasets.caption_markers import find_markers
from pipeline.datasets.caption_rows import CaptionRow
from pipeline.datasets.coco import note_marks, read_annotations
from pipeline.datasets.delimited_table import read_delimited
from pipeline.datasets.entries import SPLIT_NAMES, Note, ReadOptions, check_encodable, without_caption_number
from pipeline.datasets.html_markup import html_note
from pipeline.datasets.joined_references import split_references
from pipeline.datasets.json_errors import COMMENTS, describe_json_error
from pipeline.datasets.json_records import read_json_lines, read_records
from pipeline.datasets.karpathy import read_images
from pipeline.datasets.text_files import decode, not_text, parse_json
from pipeline.errors import DataError
from pipeline.wording import shown_names

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_COCO_IMAGE_KEYS = frozenset(
    ["id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"]
)


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """A row with an image and captions that are text."""

    place: str
    names: tuple[str, ...]
    """Without repetition, ids first."""
    captions: tuple[str, ...]
    split: str | None
    references: tuple[str, ...] | None


def read_content(path: Path) -> str:
    """The text of a file. Raises `DataError`."""
    try:
        content = path.read_bytes()
        if words := not_text(content):
            raise DataError(f"{path}: {words}")
        return decode(content, errors="strict")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {error.encoding.upper()} at byte {error.start}; save it as UTF-8") from error


def read_rows(text: str, source: str, *, best_only: bool) -> tuple[list[ScoringRow], list[str]]:
    """Read the rows of a file and remove start and end markers. Returns rows and notes. Raises `DataError`.

    With `best_only`, only the first of an image's captions is kept where the captions have scores.
    """
    kind, found = _find_rows(text, source)
    rows: list[ScoringRow] = []
    notes: list[str] = []
    for row in found:
        if isinstance(row, Note):
            notes.append(row.text)
        else:
            rows.append(_check_row(row, f"{source}, {kind} {row.line}", best_only=best_only))
    if markers := find_markers(caption for row in rows for caption in row.captions):
        rows = [replace(row, captions=tuple(map(markers.remove, row.captions))) for row in rows]
        notes.append(f"{source}: {markers.note}")
    if note := html_note(caption for row in rows for caption in row.captions):
        notes.append(f"{source}: {note}")
    return rows, notes


def _find_rows(text: str, source: str) -> tuple[str, Iterable[CaptionRow | Note]]:
    """The word for a row in messages, such as `line`, and the rows of a file in any layout. Raises `DataError`."""
    options = ReadOptions()
    start = text.lstrip()[:1]
    if not start:
        raise DataError(f"{source}: the file is empty")
    if start not in "[{":
        if Path(source).suffix.lower() in _JSON_SUFFIXES:
            comment = text.lstrip().startswith(COMMENTS)
            remedy = "it has no comments; remove them" if comment else "if this is a table, rename it to *.csv"
            raise DataError(f"{source}: not JSON: {remedy}")
        return "line", read_delimited(io.StringIO(text, newline=""), options, source)
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as error:
        if start == "{" and isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return "line", read_json_lines(io.StringIO(text, newline=""), options, source)
        if isinstance(error, json.JSONDecodeError):
            raise DataError(f"{source}, {describe_json_error(error)}") from error
        raise DataError(f"{source}: not valid JSON: {error}") from error
    images, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if annotations is None and _are_images_of_coco(images):
        return "image", ()
    if isinstance(annotations, list):
        listed = images if isinstance(images, list) else []
        return "annotation", chain(note_marks(annotations, source), read_annotations(listed, annotations))
    if isinstance(images, list) and all(isinstance(image, dict) and "sentences" in image for image in images):
        return "image", read_images(images)
    rows: Iterable[CaptionRow | Note] | None = read_records(content, options, source) if content else ()
    if rows is None:
        raise DataError(f"{source}: JSON in an unknown layout, with the keys {shown_names(list(map(repr, content)))}")
    return "entry", rows


def _are_images_of_coco(images: object) -> bool:
    """Whether a value is the list of images in COCO's layout, such as that of image_info_test2017.json."""
    return isinstance(images, list) and all(
        isinstance(image, dict) and "file_name" in image and image.keys() <= _COCO_IMAGE_KEYS for image in images
    )


def _check_row(row: CaptionRow, place: str, *, best_only: bool) -> ScoringRow:
    found = [str(name).strip() for name in row.names if isinstance(name, str | int) and not isinstance(name, bool)]
    names = list(dict.fromkeys(without_caption_number(name) for name in found if name))
    for name in names:
        if problem := check_encodable(name):
            raise DataError(f"{place}: the image's name: {problem}")
    if row.problem:
        raise DataError(": ".join([place, *names[:1], row.problem]))
    if not names:
        raise DataError(f"{place}: the image's name is {row.image!r:.80}; expected a text or an integer")
    captions = row.captions[:1] if best_only and row.ranked else row.captions
    for caption in captions:
        if not isinstance(caption, str):
            raise DataError(f"{place}: the caption of {names[0]} is not text: {caption!r:.80}")
        if problem := check_encodable(caption):
            raise DataError(f"{place}: the caption of {names[0]}: {problem}")
    return ScoringRow(
        place,
        tuple(names),
        captions,
        SPLIT_NAMES.get(str(row.split).strip().lower()),
        split_references(row.references) if isinstance(row.references, str) else None,
    )
