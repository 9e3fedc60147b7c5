"""Captions that are to be scored, and the references they are scored against, as people keep them in files.

Captions: COCO's results format (a JSON list of `image_id` and `caption`), the lines that `captioner predict --json`
prints, or a CSV file with the columns image and caption. References: COCO's annotations file, a JSON object with a list
of captions per picture, or a CSV file with one caption per row. A table with a column `references`, such as
metrics/captions.csv, holds both.
"""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import DataError

SEPARATOR = " | "
"""Between the references in one field of a table; a stroke inside a caption is written with a backslash."""
_SHOWN = 5


@dataclass(frozen=True)
class Results:
    """One caption per picture."""

    place: str
    """Where they were read, for messages."""
    captions: Mapping[str, str]
    """By picture: COCO's number as text, or a name."""
    references: Mapping[str, tuple[str, ...]] | None = None
    """Those beside the captions in the same table; None where there are none."""


@dataclass(frozen=True)
class References:
    """Several captions per picture."""

    place: str
    captions: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str] = field(default_factory=dict)
    """The picture by its file's name, where the file gives both (COCO)."""

    def find(self, picture: str) -> str | None:
        """The key of `picture` (a key, a file's name or a path that ends in either); None where there is none."""
        for name in (picture, PurePosixPath(picture.replace("\\", "/")).name):
            if name in self.captions:
                return name
            if self.names.get(name) in self.captions:
                return self.names[name]
        return None


def read_results(path: Path) -> Results:
    """Raises `DataError` naming what is wrong, and where."""
    return parse_results(_text(path), str(path))


def parse_results(text: str, place: str) -> Results:
    """`read_results` of a file's contents. Raises `DataError` naming `place`."""
    start = text.lstrip()[:1]
    if start == "[":
        return Results(place, _unique(_from_list(_json(text, place), place), place))
    if start == "{":
        return Results(place, _unique(_from_lines(text, place), place))
    return _from_table(text, place)


def read_references(path: Path) -> References:
    """Raises `DataError` naming what is wrong, and where."""
    text, place = _text(path), str(path)
    if text.lstrip()[:1] == "{":
        content = _json(text, place)
        return _from_coco(content, place) if "annotations" in content else _from_object(content, place)
    if text.lstrip()[:1] == "[":
        raise DataError(f"{place}: looks like results (a list); references are COCO's annotations file or a CSV table")
    rows, _ = _table(text, place)
    return References(place, _references_of_table(rows))


def matched(
    results: Results,
    references: References,
    *,
    subset: bool = False,
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The captions and the references of the same pictures, in the references' order.

    Raises `DataError` for a caption without references, and, unless `subset`, for pictures without a caption: a
    captioner that leaves out the hard pictures would score higher for it.
    """
    found = {picture: references.find(picture) for picture in results.captions}
    unknown = [picture for picture, key in found.items() if key is None]
    if unknown:
        raise DataError(
            f"{results.place}: {len(unknown)} of {len(found)} pictures have no references in {references.place}: "
            f"{_some(unknown)}"
        )
    captions: dict[str, str] = {}
    for picture, key in found.items():
        assert key is not None
        if key in captions:
            raise DataError(f"{results.place}: two captions for {key} (the second as {picture}); keep one of them")
        captions[key] = results.captions[picture]
    missing = [picture for picture in references.captions if picture not in captions]
    if missing and not subset:
        raise DataError(
            f"{results.place}: no caption for {len(missing)} of the {len(references.captions)} pictures in "
            f"{references.place}: {_some(missing)}; caption them too, or score the others alone with --subset"
        )
    kept = {picture: texts for picture, texts in references.captions.items() if picture in captions}
    return {picture: captions[picture] for picture in kept}, kept


def join_references(captions: Sequence[str]) -> str:
    """Several captions in one field of a table."""
    return SEPARATOR.join(caption.replace("\\", "\\\\").replace("|", "\\|") for caption in captions)


def split_references(text: str) -> tuple[str, ...]:
    """What `join_references` joined."""
    if "\\" not in text:
        return tuple(text.split(SEPARATOR))
    captions, escaped = [""], False
    for character in text:
        if escaped:
            captions[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "|":
            captions[-1] = captions[-1].removesuffix(" ")
            captions.append("")
        elif not (character == " " and len(captions) > 1 and not captions[-1]):
            captions[-1] += character
    return tuple(captions)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: not valid JSON: {error}") from error


def _from_list(content: Any, place: str) -> list[tuple[str, str]]:
    """COCO's results: [{"image_id": 42, "caption": "..."}, ...]."""
    pairs = []
    for number, item in enumerate(content, start=1):
        entry = item if isinstance(item, dict) else {}
        picture, caption = entry.get("image_id", entry.get("image")), entry.get("caption")
        if not isinstance(picture, int | str) or not isinstance(caption, str):
            raise DataError(f"{place}, entry {number}: expected an object with image_id and caption, got {item!r:.80}")
        pairs.append((str(picture), caption))
    return pairs


def _from_lines(text: str, place: str) -> list[tuple[str, str]]:
    """What `captioner predict --json` prints: {"image": "a.jpg", "captions": [{"caption": "..."}], ...}."""
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = _json(line, f"{place}, line {number}")
        if isinstance(entry, dict) and entry.get("error"):
            raise DataError(f"{place}, line {number}: {entry.get('image')} was not captioned: {entry['error']}")
        try:
            picture, caption = entry["image"], entry["captions"][0]["caption"]
        except (KeyError, IndexError, TypeError):
            picture = caption = None
        if not isinstance(picture, str) or not isinstance(caption, str):
            raise DataError(
                f"{place}, line {number}: expected COCO's results (a list of image_id and caption) or the lines of "
                f"`captioner predict --json`, got {line:.80}"
            )
        pairs.append((picture, caption))
    return pairs


def _from_table(text: str, place: str) -> Results:
    rows, header = _table(text, place)
    failed = [row for row in rows if row.get("error")]
    if failed:  # as `captioner predict --csv` writes them
        raise DataError(
            f"{place}: {len(failed)} pictures were not captioned, such as {failed[0]['image']}: {failed[0]['error']}; "
            "take their rows out, or caption them again"
        )
    captions = _unique([(row["image"], row["caption"]) for row in rows], place)
    return Results(place, captions, _references_of_table(rows) if "references" in header else None)


def _table(text: str, place: str) -> tuple[list[dict[str, str]], list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[dict[str, str]] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"image", "caption"} <= set(header):
            raise DataError(
                f"{place}: neither JSON nor a CSV table with the columns image and caption; it starts with "
                f"{text[:40].splitlines()[:1]}"
            )
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(f"{place}, line {reader.line_num}: {len(values)} fields, the header has {len(header)}")
            if values:
                rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{place}, line {reader.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise DataError(f"{place}: holds no captions")
    return rows, header


def _references_of_table(rows: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    references: dict[str, list[str]] = {}
    for row in rows:
        captions = split_references(row["references"]) if "references" in row else (row["caption"],)
        references.setdefault(row["image"], []).extend(captions)
    return {picture: tuple(captions) for picture, captions in references.items()}


def _from_coco(content: dict[str, Any], place: str) -> References:
    captions: dict[str, list[str]] = {}
    annotations = content["annotations"]
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else [annotations], start=1):
        entry = annotation if isinstance(annotation, dict) else {}
        if not isinstance(entry.get("image_id"), int | str) or not isinstance(entry.get("caption"), str):
            raise DataError(
                f"{place}, annotation {number}: expected an object with image_id and caption, got {annotation!r:.80}"
            )
        captions.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    if not captions:
        raise DataError(f"{place}: holds no annotations; a test file without captions cannot be scored against")
    images = content.get("images")
    names = {
        image["file_name"]: str(image["id"])
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image
    }
    return References(place, {picture: tuple(texts) for picture, texts in captions.items()}, names)


def _from_object(content: dict[str, Any], place: str) -> References:
    """{"a.jpg": ["...", "..."], ...}"""
    for picture, captions in content.items():
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{place}, {picture}: expected a list of captions, got {captions!r:.80}")
    if not content:
        raise DataError(f"{place}: holds no captions")
    return References(place, {picture: tuple(captions) for picture, captions in content.items()})


def _unique(pairs: list[tuple[str, str]], place: str) -> dict[str, str]:
    captions = dict(pairs)
    if not captions:
        raise DataError(f"{place}: holds no captions")
    if len(captions) < len(pairs):
        seen: set[str] = set()
        twice = [picture for picture, _ in pairs if picture in seen or seen.add(picture)]  # type: ignore[func-returns-value]
        raise DataError(f"{place}: more than one caption for {_some(twice)}; a picture is scored with one caption")
    return captions


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
