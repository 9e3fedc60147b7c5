"""Reads the captions of any captioner, and the references to score them against, from the usual files.

Captions: COCO's results format (a JSON list of `image_id` and `caption`), the lines of `captioner predict --json`, or a
CSV table with the columns image and caption. References: COCO's annotations file, a JSON object with a list of captions
per image, or a CSV table with one caption per row. A table with a column `references`, such as metrics/captions.csv,
holds both.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import DataError
from pipeline.files import allow_long_fields

SEPARATOR = " | "
"""Separates the references in one field of a table; a `|` inside a caption is escaped with a backslash."""
_SHOWN = 5


@dataclass(frozen=True)
class CaptionFile:
    """One caption per image."""

    source: str
    """The name of the file, for messages."""
    captions: Mapping[str, str]
    """By COCO image id (as text) or image name."""
    references: Mapping[str, tuple[str, ...]] | None = None
    """The references in the same table; None where it has none."""


@dataclass(frozen=True)
class ReferenceFile:
    """One or more captions per image."""

    source: str
    captions: Mapping[str, tuple[str, ...]]
    ids: Mapping[str, str] = field(default_factory=dict)
    """The image id by file name, where the file has both (COCO)."""

    def find(self, image: str) -> str | None:
        """The key of `image`, given as a key, a file name or a path that ends in either; None if there is none."""
        for name in (image, PurePosixPath(image.replace("\\", "/")).name):
            if name in self.captions:
                return name
            if self.ids.get(name) in self.captions:
                return self.ids[name]
        return None


def read_caption_file(path: Path) -> CaptionFile:
    """Raises `DataError` naming the file, the place in it and the problem."""
    return parse_captions(_read_text(path), str(path))


def parse_captions(text: str, source: str) -> CaptionFile:
    """The captions in the content of a file. Raises `DataError` naming `source`."""
    start = text.lstrip()[:1]
    if start == "[":
        return CaptionFile(source, _by_image(_coco_results(_parse_json(text, source), source), source))
    if start == "{":
        return CaptionFile(source, _by_image(_predict_lines(text, source), source))
    rows, header = _table(text, source)
    failed = [row for row in rows if row.get("error")]  # written by `captioner predict --csv`
    if failed:
        raise DataError(
            f"{source}: {len(failed)} images have an error and no caption, such as {failed[0]['image']}: "
            f"{failed[0]['error']}; delete their rows or caption them again"
        )
    captions = _by_image([(row["image"], row["caption"]) for row in rows], source)
    return CaptionFile(source, captions, _table_references(rows) if "references" in header else None)


def read_reference_file(path: Path) -> ReferenceFile:
    """Raises `DataError` naming the file, the place in it and the problem."""
    text, source = _read_text(path), str(path)
    start = text.lstrip()[:1]
    if start == "[":
        raise DataError(
            f"{source}: a JSON list holds captions, not references; give COCO's annotations file, a JSON object or a "
            "CSV table"
        )
    if start == "{":
        content = _parse_json(text, source)
        return _coco_annotations(content, source) if "annotations" in content else _caption_lists(content, source)
    rows, _ = _table(text, source)
    return ReferenceFile(source, _table_references(rows))


def match_captions(
    captions: CaptionFile, references: ReferenceFile, *, subset: bool = False
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The captions and the references of the same images, in the order of the references.

    Raises `DataError` for a caption without references and, unless `subset`, for images without a caption: leaving out
    hard images would raise the scores.
    """
    keys = {image: references.find(image) for image in captions.captions}
    unknown = [image for image, key in keys.items() if key is None]
    if unknown:
        raise DataError(
            f"{captions.source}: {len(unknown)} of {len(keys)} images have no references in {references.source}: "
            f"{_some(unknown)}"
        )
    by_key: dict[str, str] = {}
    for image, key in keys.items():
        assert key is not None
        if key in by_key:
            raise DataError(f"{captions.source}: two captions for {key} (the second one as {image}); keep one of them")
        by_key[key] = captions.captions[image]
    missing = [image for image in references.captions if image not in by_key]
    if missing and not subset:
        raise DataError(
            f"{captions.source}: no caption for {len(missing)} of the {len(references.captions)} images in "
            f"{references.source}: {_some(missing)}; caption them too, or score the others alone with --subset"
        )
    matched = {image: texts for image, texts in references.captions.items() if image in by_key}
    return {image: by_key[image] for image in matched}, matched


def join_references(captions: Sequence[str]) -> str:
    """Several captions in one field of a table."""
    return SEPARATOR.join(caption.replace("\\", "\\\\").replace("|", "\\|") for caption in captions)


def split_references(text: str) -> tuple[str, ...]:
    """The inverse of `join_references`."""
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON: {error}") from error


def _coco_entry(entry: Any, place: str) -> tuple[str, str]:
    """The image id and caption of an entry of COCO's results or annotations."""
    content = entry if isinstance(entry, dict) else {}
    image, caption = content.get("image_id", content.get("image")), content.get("caption")
    if not isinstance(image, int | str) or not isinstance(caption, str):
        raise DataError(f"{place}: expected an object with image_id and caption, got {entry!r:.80}")
    return str(image), caption


def _coco_results(content: Any, source: str) -> list[tuple[str, str]]:
    """[{"image_id": 42, "caption": "..."}, ...]"""
    return [_coco_entry(entry, f"{source}, entry {number}") for number, entry in enumerate(content, start=1)]


def _coco_annotations(content: dict[str, Any], source: str) -> ReferenceFile:
    annotations = content["annotations"]
    captions: dict[str, list[str]] = {}
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else [annotations], start=1):
        image, caption = _coco_entry(annotation, f"{source}, annotation {number}")
        captions.setdefault(image, []).append(caption)
    if not captions:
        raise DataError(f"{source}: holds no annotations; COCO's test files have no captions to score against")
    images = content.get("images")
    ids = {
        image["file_name"]: str(image["id"])
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image
    }
    return ReferenceFile(source, {image: tuple(texts) for image, texts in captions.items()}, ids)


def _caption_lists(content: dict[str, Any], source: str) -> ReferenceFile:
    """{"a.jpg": ["...", "..."], ...}"""
    for image, captions in content.items():
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{source}, {image}: expected a list of captions, got {captions!r:.80}")
    if not content:
        raise DataError(f"{source}: holds no captions")
    return ReferenceFile(source, {image: tuple(captions) for image, captions in content.items()})


def _predict_lines(text: str, source: str) -> list[tuple[str, str]]:
    """The lines of `captioner predict --json`: {"image": "a.jpg", "captions": [{"caption": "..."}], ...}"""
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = _parse_json(line, f"{source}, line {number}")
        if isinstance(entry, dict) and entry.get("error"):
            raise DataError(f"{source}, line {number}: {entry.get('image')} has no caption: {entry['error']}")
        try:
            image, caption = entry["image"], entry["captions"][0]["caption"]
        except (KeyError, IndexError, TypeError):
            image = caption = None
        if not isinstance(image, str) or not isinstance(caption, str):
            raise DataError(
                f"{source}, line {number}: expected COCO's results (a list of image_id and caption) or the lines of "
                f"`captioner predict --json`, got {line:.80}"
            )
        pairs.append((image, caption))
    return pairs


def _table(text: str, source: str) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV table by column, and its header."""
    allow_long_fields()
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[dict[str, str]] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"image", "caption"} <= set(header):
            raise DataError(
                f"{source}: neither JSON nor a CSV table with the columns image and caption; it starts with "
                f"{text[:40].splitlines()[:1]}"
            )
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(f"{source}, line {reader.line_num}: {len(values)} fields, the header has {len(header)}")
            if values:
                rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise DataError(f"{source}: holds no captions")
    return rows, header


def _table_references(rows: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    references: dict[str, list[str]] = {}
    for row in rows:
        captions = split_references(row["references"]) if "references" in row else (row["caption"],)
        references.setdefault(row["image"], []).extend(captions)
    return {image: tuple(captions) for image, captions in references.items()}


def _by_image(pairs: list[tuple[str, str]], source: str) -> dict[str, str]:
    captions = dict(pairs)
    if not captions:
        raise DataError(f"{source}: holds no captions")
    if len(captions) < len(pairs):
        seen: set[str] = set()
        repeated = [image for image, _ in pairs if image in seen or seen.add(image)]  # type: ignore[func-returns-value]
        raise DataError(f"{source}: more than one caption for {_some(repeated)}; keep one caption per image")
    return captions


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
