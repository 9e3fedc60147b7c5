"""Reads files of captions or references for scoring, in the layouts that captioners and datasets write.

Unlike the readers of datasets, which skip an unusable row, this one refuses the file.

A file is JSON, JSON lines or delimited text. Its columns or keys have the names that datasets use (see columns.py):

    [{"image_id": 42, "caption": "..."}, ...]                       COCO's results; also in an object or as JSON lines
    {"image": "a.jpg", "captions": [{"caption": "..."}], ...}       the lines of `captioner predict --json`
    {"images": [...], "annotations": [...]}                         COCO's annotations
    {"images": [{"filename": ..., "sentences": [...]}, ...]}        Karpathy's file
    {"a.jpg": ["...", "..."]}, {"42": "..."}, {"42": [{"caption": "..."}]}
    image,caption                                                   CSV, TSV, `;` or `|`; Flickr8k's token file

A file with a column or key `references`, such as metrics/captions.csv, holds both captions and references.
"""

import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pipeline.datasets.caption_markup import clean_captions
from pipeline.datasets.caption_rows import CaptionRow
from pipeline.datasets.coco import note_marks, read_annotations
from pipeline.datasets.delimited_table import read_delimited
from pipeline.datasets.entries import SPLIT_NAMES, Note, ReadOptions, check_encodable, without_caption_number
from pipeline.datasets.json_records import JSON, is_json_lines, read_json_lines, read_records
from pipeline.datasets.karpathy import read_images
from pipeline.datasets.tables import split_references
from pipeline.datasets.text_files import parse_json
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """A row with an image and captions that are text."""

    place: str
    names: tuple[str, ...]
    """Without repetition, ids first."""
    captions: tuple[str, ...]
    split: str | None
    references: tuple[str, ...] | None


def read_rows(text: str, source: str, *, best_only: bool) -> tuple[list[ScoringRow], list[str]]:
    """Read the rows of a file and remove start and end markers. Returns rows and notes. Raises `DataError`.

    With `best_only`, only the first of an image's captions is kept where the captions have scores.
    """
    kind, found = _find_rows(text, source)
    rows: list[ScoringRow] = []
    notes: list[str] = []
    several = 0
    for row in found:
        if isinstance(row, Note):
            notes.append(row.text)
        else:
            rows.append(_check_row(row, f"{source}, {kind} {row.line}", best_only=best_only))
            several += len(row.captions) > len(rows[-1].captions)
    if several:
        images = counted(several, "image has", "images have")
        notes.append(f"{source}: {images} several captions with scores; only the first one is scored")
    captions, caption_notes = _clean([row.captions for row in rows])
    references, reference_notes = _clean([row.references or () for row in rows])
    notes += [f"{source}: {note}" for note in dict.fromkeys(caption_notes + reference_notes)]
    has_references = any(row.references is not None for row in rows)
    return [
        replace(row, captions=ours, references=theirs if has_references else None)
        for row, ours, theirs in zip(rows, captions, references, strict=True)
    ], notes


def _clean(texts: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The captions of each row without markers, and notes."""
    cleaned, notes = clean_captions(list(chain.from_iterable(texts)))
    rest = iter(cleaned)
    return [tuple(islice(rest, len(of_row))) for of_row in texts], notes


def _find_rows(text: str, source: str) -> tuple[str, Iterable[CaptionRow | Note]]:
    """The word for a row in messages, such as `line`, and the rows of a file in any layout. Raises `DataError`."""
    options = ReadOptions()
    if not text.strip():
        raise DataError(f"{source}: the file is empty")
    if not text.lstrip().startswith(("[", "{")) and Path(source).suffix.lower() not in JSON:
        return "line", read_delimited(io.StringIO(text, newline=""), options, source)
    if is_json_lines(text):
        return "line", read_json_lines(io.StringIO(text, newline=""), options, source)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    images, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if isinstance(images, list) and images and not annotations and not any(map(_has_captions, images)):
        raise DataError(f"{source}: holds images without captions; COCO publishes none of its test images")
    if isinstance(annotations, list):
        listed = images if isinstance(images, list) else []
        return "annotation", chain(note_marks(annotations, source), read_annotations(listed, annotations))
    if isinstance(images, list) and all(isinstance(image, dict) and "sentences" in image for image in images):
        return "image", read_images(images)
    rows: Iterable[CaptionRow | Note] | None = read_records(content, options, source) if content else ()
    if rows is None:
        what = (
            f"with the keys {shown_names(list(map(repr, content)))}"
            if isinstance(content, dict)
            else f"{content!r:.80}"
        )
        raise DataError(f"{source}: JSON in an unknown layout, {what}")
    return "entry", rows


def _has_captions(image: object) -> bool:
    return not isinstance(image, dict) or not {"caption", "captions", "sentences"}.isdisjoint(image)


def _check_row(row: CaptionRow, place: str, *, best_only: bool) -> ScoringRow:
    found = [str(name).strip() for name in row.names if isinstance(name, str | int) and not isinstance(name, bool)]
    names = list(dict.fromkeys(unicodedata.normalize("NFC", without_caption_number(name)) for name in found if name))
    for name in names:
        if problem := check_encodable(name):
            raise DataError(f"{place}: the image's name: {problem}")
    if row.problem:
        raise DataError(": ".join([place, *names[:1], f"{row.problem}; correct or remove it"]))
    if not names:
        raise DataError(f"{place}: the image's name is {row.image!r:.80}; expected a text or an integer")
    captions = row.captions[:1] if best_only and row.ranked else row.captions
    references = split_references(row.references) if isinstance(row.references, str) else row.references
    _check_texts(captions, f"{place}: the caption of {names[0]}")
    _check_texts(() if references is None else references, f"{place}: a reference of {names[0]}")
    return ScoringRow(
        place,
        tuple(names),
        _composed(captions),
        SPLIT_NAMES.get(str(row.split).strip().lower()),
        None if references is None else _composed(references),
    )


def _composed(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in Unicode's composed form, which `prepare` writes, too."""
    return tuple(unicodedata.normalize("NFC", text) for text in texts)


def _check_texts(texts: Any, what: str) -> None:
    """Check that these are texts that can be written. Raises `DataError` naming `what` is not."""
    for text in texts if isinstance(texts, list | tuple) else [texts]:
        if not isinstance(text, str):
            raise DataError(f"{what} is not text: {text!r:.80}")
        if problem := check_encodable(text):
            raise DataError(f"{what}: {problem}")
