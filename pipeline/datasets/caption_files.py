"""Reads the captions of any captioner, and the references to score them against.

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
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.columns import USUAL_NAMES, MissingColumnError, find_columns, normalize_column
from pipeline.datasets.delimited_text import DelimitedReader
from pipeline.datasets.entries import SPLIT_NAMES, ReadOptions
from pipeline.datasets.joined_references import split_references
from pipeline.datasets.json_records import find_records
from pipeline.datasets.table import captions_in_cell, columns_without_header, detect_delimiter
from pipeline.datasets.text_files import encoding_of, parse_json
from pipeline.errors import DataError

_SHOWN = 5
_NUMBER = re.compile(r"#\d+$")
"""Flickr's caption number after an image name: `name.jpg#0`."""
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")
"""An image id, perhaps padded with zeros, or COCO's file name without its suffix."""
_EXPECTED = "expected an image and a caption under their usual names, such as image_id or image, and caption"


@dataclass(frozen=True)
class CaptionFile:
    """One caption per image."""

    source: str
    """The name of the file, for messages."""
    captions: Mapping[str, str]
    """By COCO image id (as text) or image name."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of these images, where the file has them."""
    references: Mapping[str, tuple[str, ...]] | None = None
    """The references in the same table; None where it has none."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceFile:
    """One or more captions per image."""

    source: str
    captions: Mapping[str, tuple[str, ...]]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of these images, such as the file names beside COCO's ids."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """The split of each image, where the file has one."""
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> tuple[str | None, str]:
        """The key of an image, and what its name matched by; None where it matches no image, or more than one.

        Tried in this order: the name, the end of its path, its file name, its file name without suffix, its number.
        """
        path = PurePosixPath(name.replace("\\", "/")).parts
        attempts = [(name, "name"), *(("/".join(path[start:]), "path") for start in range(len(path)))]
        attempts += list(_forms(name))
        for form, kind in attempts:
            found = self._index["name" if kind == "path" else kind].get(form, ())
            if len(found) == 1:
                return next(iter(found)), kind
        return None, ""

    @cached_property
    def _index(self) -> dict[str, dict[str, set[str]]]:
        """The keys by each form of their names, by the kind of form."""
        index: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for key in self.captions:
            for name in (key, *self.names.get(key, ())):
                index["name"][name].add(key)
                for form, kind in _forms(name):
                    index[kind][form].add(key)
        return index


@dataclass(frozen=True)
class MatchedCaptions:
    """The captions and the references of the same images, in the same order, and what the user should know."""

    captions: dict[str, str]
    references: dict[str, tuple[str, ...]]
    missing: int
    """Images without a caption, which are left out."""
    notes: tuple[str, ...]


def read_caption_file(path: Path) -> CaptionFile:
    """Read one caption per image. Raises `DataError` naming the file, the place in it and the problem."""
    return parse_captions(_read_text(path), str(path))


def parse_captions(text: str, source: str) -> CaptionFile:
    """The captions in the content of a file. Raises `DataError` naming `source`."""
    notes: list[str] = []
    rows = list(_rows(text, source, notes))
    if not rows:
        raise DataError(f"{source}: holds no captions")
    counts = Counter(row.names[0] for row in rows for _ in row.captions)
    repeated = [image for image, count in counts.items() if count > 1]
    if repeated:
        raise DataError(f"{source}: more than one caption for {_some(repeated)}; keep one caption per image")
    for row in rows:
        if not row.captions:
            raise DataError(f"{row.place}: {row.names[0]} has no caption")
    references = None
    if rows[0].references is not None:
        references = {row.names[0]: row.references or () for row in rows}
    return CaptionFile(
        source,
        {row.names[0]: row.captions[0] for row in rows},
        {row.names[0]: row.names[1:] for row in rows if row.names[1:]},
        references,
        tuple(notes),
    )


def read_reference_file(path: Path) -> ReferenceFile:
    """Read the references of each image. Raises `DataError` naming the file, the place in it and the problem."""
    source, notes = str(path), list[str]()
    captions: dict[str, list[str]] = {}
    names: dict[str, tuple[str, ...]] = {}
    splits: dict[str, str] = {}
    empty = []
    for row in _rows(_read_text(path), source, notes):
        key = row.names[0]
        texts = row.captions if row.references is None else row.references
        captions.setdefault(key, []).extend(text for text in texts if text.strip())
        if not all(text.strip() for text in texts):
            empty.append(row.place)
        names[key] = tuple(dict.fromkeys((*names.get(key, ()), *row.names[1:])))
        if row.split:
            splits[key] = row.split
    if empty:
        notes.append(f"{source}: {len(empty)} references are empty and left out, the first in {empty[0]}")
    known = {image: tuple(texts) for image, texts in captions.items() if texts}
    if not known:
        raise DataError(f"{source}: holds no captions to score against; COCO publishes none of its test images")
    return ReferenceFile(source, known, names, splits, tuple(notes))


def match_captions(captions: CaptionFile, references: ReferenceFile, *, subset: bool = False) -> MatchedCaptions:
    """The captions and the references of the same images, in the order of the references.

    Where the references have splits, only the splits of the captioned images count. Raises `DataError` for a caption
    without references and, unless `subset`, for images without a caption: leaving out hard images would raise the
    scores.
    """
    by_key, notes = _captions_by_reference(captions, references)
    splits = {references.splits.get(key) for key in by_key}
    wanted = [key for key in references.captions if None in splits or references.splits.get(key) in splits]
    if len(wanted) < len(references.captions):
        named = " and ".join(sorted(split for split in splits if split))
        others = len(references.captions) - len(wanted)
        notes.append(f"all captions are of {named}; the {others:,} images of other splits are not scored")
    missing = [image for image in wanted if image not in by_key]
    if missing and not subset:
        raise DataError(
            f"{captions.source}: no caption for {len(missing)} of the {len(wanted)} images in "
            f"{references.source}: {_some(missing)}; caption them too, or score the others alone with --subset"
        )
    matched = {image: references.captions[image] for image in wanted if image in by_key}
    return MatchedCaptions(
        {image: by_key[image] for image in matched},
        matched,
        len(missing),
        (*captions.notes, *references.notes, *notes),
    )


def _captions_by_reference(captions: CaptionFile, references: ReferenceFile) -> tuple[dict[str, str], list[str]]:
    """The captions by the keys of their references, and notes on names that differ. Raises `DataError`."""
    by_key: dict[str, str] = {}
    unknown: list[str] = []
    examples: dict[str, str] = {}
    counts = Counter[str]()
    for image, caption in captions.captions.items():
        found: dict[str, tuple[str, str]] = {}
        for name in (image, *captions.names.get(image, ())):
            key, kind = references.find(name)
            if key is not None:
                found.setdefault(key, (name, kind))
        if not found:
            unknown.append(image)
            continue
        if len(found) > 1:
            named = " and ".join(f"{name} is {key}" for key, (name, _) in found.items())
            raise DataError(f"{captions.source}: one image has two names that differ in {references.source}: {named}")
        ((key, (name, kind)),) = found.items()
        if key in by_key:
            raise DataError(f"{captions.source}: two captions for {key} (the second one as {image}); keep one of them")
        by_key[key] = caption
        counts[kind] += 1
        examples.setdefault(kind, f"{name} with {key}")
    if unknown:
        raise DataError(
            f"{captions.source}: {len(unknown)} of {len(captions.captions)} images have no references in "
            f"{references.source}: {_some(unknown)}; its images are named {_named_like(references)}"
        )
    notes = [
        f"{counts[kind]:,} images are matched by {kind}, such as {examples[kind]}"
        for kind in ("name without suffix", "number")
        if counts[kind]
    ]
    return by_key, notes


def _named_like(references: ReferenceFile) -> str:
    """Examples of the names that references can be found by."""
    keys = list(references.captions)[:2]
    return ", ".join(
        f"{key} ({', '.join(others)})" if (others := references.names.get(key)) else key for key in keys
    ) + (", ..." if len(references.captions) > len(keys) else "")


def _forms(name: str) -> Iterator[tuple[str, str]]:
    """What a name can match by, and the kind of match: the file name, the one without suffix, the number."""
    base = PurePosixPath(name.replace("\\", "/")).name
    path = PurePosixPath(base)
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else base
    yield base, "file name"
    yield stem, "name without suffix"
    if number := _COCO_NAME.fullmatch(stem):
        yield number[1], "number"


# Files to rows


@dataclass(frozen=True, slots=True)
class _Row:
    """The captions of one image in one place of a file."""

    names: tuple[str, ...]
    captions: tuple[str, ...]
    place: str
    split: str | None = None
    references: tuple[str, ...] | None = None


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = content.decode(encoding_of(content[:4]))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {error.encoding.upper()} at byte {error.start}; save it as UTF-8") from error
    return text.removeprefix("\ufeff")


def _rows(text: str, source: str, notes: list[str]) -> Iterator[_Row]:
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


def _line_rows(text: str, source: str) -> Iterator[_Row]:
    """JSON lines."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{source}, line {number}"
            try:
                record = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not valid JSON: {error}") from error
            yield from _record_rows(record, place)


def _json_rows(content: Any, source: str) -> Iterator[_Row]:
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
        keys = ", ".join(map(repr, list(content)[:_SHOWN]))
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


def _coco_rows(images: list[Any], annotations: list[Any], source: str) -> Iterator[_Row]:
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
        yield _Row((str(image), *names[str(image)]), (caption,), place)


def _karpathy_rows(images: list[dict[str, Any]], source: str) -> Iterator[_Row]:
    for number, image in enumerate(images, start=1):
        place = f"{source}, image {number}"
        name, folder, coco_id = image.get("filename"), image.get("filepath"), image.get("cocoid")
        sentences = image["sentences"] if isinstance(image["sentences"], list) else []
        captions = [one.get("raw") for one in sentences if isinstance(one, dict)]
        if not isinstance(name, str) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{place}: expected a filename and sentences with raw text, got {image!r:.80}")
        names = [f"{folder}/{name}", name] if isinstance(folder, str) and folder else [name]
        names += [str(coco_id)] if isinstance(coco_id, int | str) else []
        yield _Row(tuple(names), tuple(map(str, captions)), place, SPLIT_NAMES.get(str(image.get("split")).lower()))


def _record_rows(record: Any, place: str) -> Iterator[_Row]:
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
        yield _Row(names, tuple(captions), place, split)


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


def _table_rows(text: str, source: str, notes: list[str]) -> Iterator[_Row]:
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
        yield _Row(
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


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
