"""Captions of any captioner, and references to score them against. `scoring_rows.py` reads the files."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.scoring_rows import ScoringRow, read_rows
from pipeline.datasets.text_files import read_text
from pipeline.errors import DataError
from pipeline.wording import counted, shown_names

_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")
"""An image id, perhaps padded with zeros, or COCO's file name without its suffix."""


@dataclass(frozen=True)
class CaptionFile:
    """One caption per image."""

    source: str
    """The name of the file, for messages."""
    captions: Mapping[str, str]
    """By COCO image id (as text) or image name."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of these images, where the file has them."""
    references: "ReferenceFile | None" = None
    """The references in the same file; None where it has none."""
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


def read_caption_file(path: Path) -> CaptionFile:
    """Read one caption per image. Raises `DataError` naming the file, the place in it and the problem."""
    return parse_captions(read_text(path), str(path))


def parse_captions(text: str, source: str) -> CaptionFile:
    """The captions in the content of a file. Raises `DataError` naming `source`."""
    rows, notes = read_rows(text, source, best_only=True)
    if not rows:
        raise DataError(f"{source}: holds no captions")
    counts = Counter(row.names[0] for row in rows for _ in row.captions)
    repeated = [image for image, count in counts.items() if count > 1]
    if repeated:
        raise DataError(f"{source}: more than one caption for {shown_names(repeated)}; keep one caption per image")
    for row in rows:
        if not row.captions:
            raise DataError(f"{row.place}: {row.names[0]} has no caption")
    return CaptionFile(
        source,
        {row.names[0]: row.captions[0] for row in rows},
        {row.names[0]: row.names[1:] for row in rows if row.names[1:]},
        None if rows[0].references is None else _reference_file(rows, source, []),
        tuple(notes),
    )


def read_reference_file(path: Path) -> ReferenceFile:
    """Read the references of each image. Raises `DataError` naming the file, the place in it and the problem."""
    source = str(path)
    rows, notes = read_rows(read_text(path), source, best_only=False)
    return _reference_file(rows, source, notes)


def _reference_file(rows: Sequence[ScoringRow], source: str, notes: Sequence[str]) -> ReferenceFile:
    """The references in rows, which are the captions where these have no references. Raises `DataError`."""
    captions: dict[str, list[str]] = {}
    names: dict[str, tuple[str, ...]] = {}
    splits: dict[str, str] = {}
    empty = []
    for row in rows:
        key = row.names[0]
        texts = row.captions if row.references is None else row.references
        captions.setdefault(key, []).extend(text for text in texts if text.strip())
        if not texts or not all(text.strip() for text in texts):
            empty.append(row.place)
        names[key] = tuple(dict.fromkeys((*names.get(key, ()), *row.names[1:])))
        if row.split:
            splits[key] = row.split
    if empty:
        references = counted(len(empty), "empty reference is", "empty references are")
        notes = [*notes, f"{source}: {references} left out, the first in {empty[0]}"]
    known = {image: tuple(texts) for image, texts in captions.items() if texts}
    if not known:
        raise DataError(f"{source}: holds no captions to score against")
    return ReferenceFile(source, known, names, splits, tuple(notes))


def _forms(name: str) -> Iterator[tuple[str, str]]:
    """What a name can match by, and the kind of match: the file name, the one without suffix, the number."""
    base = PurePosixPath(name.replace("\\", "/")).name
    path = PurePosixPath(base)
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else base
    yield base, "file name"
    yield stem, "name without suffix"
    if number := _COCO_NAME.fullmatch(stem):
        yield number[1], "number"
