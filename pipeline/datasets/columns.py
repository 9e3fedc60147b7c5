"""Finds the image, caption and split columns of a table by their names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from pipeline.datasets.entries import AUTO, ReadOptions

_IDS = ("image_id", "img_id")
USUAL_NAMES = {
    "image": (
        *("image", "file_name", "filename", "image_name", "image_path", "image_file", "img", "path", "file"),
        *_IDS,
    ),
    "caption": (
        *("caption", "captions", "text", "comment", "description", "sentence", "raw", "report", "caption_str"),
        *("caption_*", "comment_*", "text_*"),
    ),
    "split": ("split", "set", "set_name", "partition", "subset"),
}
"""What a column is searched as when its name is `auto`; the first that is there."""
GENERATED_NAMES = ("generated_caption", "generated", "prediction", "predicted_caption", "hypothesis")
"""Usual names of captions that a model generated, which stand beside a reference in the column `caption`."""
_DESCRIPTION = re.compile(
    "(caption|comment|text)_(.*_)?"
    "(ids?|no|number|index|idx|lang|language|length|len|count|source|url|score|date|time|author|user|type)"
)
"""The name of a column that describes a caption. The patterns of the usual names do not match it."""
_NUMBERED = re.compile(r"_?\(?\d+\)?$")
_REPEATED = re.compile(r"\.\d+$")
"""What pandas adds to the name of a column that occurs more than once."""


class MissingColumnError(ValueError):
    """A table lacks a column; the message names it, what is there instead, and the parameter to set."""


@dataclass(frozen=True)
class Columns:
    """Indices of the columns."""

    image: int
    captions: tuple[int, ...]
    split: int | None
    count: int
    """The number of all columns."""
    names: tuple[int, ...]
    """All columns that name the image, its ids first."""
    references: int | None = None
    """References beside a caption, as metrics/captions.csv has them."""
    error: int | None = None
    """Why an image has no caption, as `captioner predict` writes it."""
    ignored: tuple[str, ...] = ()
    """For each role with several columns of usual names: which ones are read, and which are not."""


@lru_cache(maxsize=128)  # most JSON objects of a file have the same keys
def find_columns(header: tuple[str, ...], options: ReadOptions, kind: Literal["column", "key"]) -> Columns:
    """Find the columns of a header or the keys of a JSON object. Raises `MissingColumnError`.

    A JSON object may lack the key of the split.
    """
    own_names = [normalize_column(name) for name in header]
    names = [first if (first := _REPEATED.sub("", name)) in own_names else name for name in own_names]
    found = {
        role: _match_usual(names, role) if requested == AUTO else _match(own_names, [normalize_column(requested)])
        for role in USUAL_NAMES
        for requested in [_requested(role, options)]
    }
    required = ["image", "caption"]
    if kind == "column" and options.split_column != AUTO:
        required.append("split")
    missing = [role for role in required if not found[role]]
    if missing:
        names_missing = " and ".join(_requested(role, options).replace(AUTO, role) for role in missing)
        there = str([name.strip() for name in header])[:300]
        params = " and ".join(f"{role}_column" for role in missing)
        raise MissingColumnError(
            f"no {kind} {names_missing}; the {'header is' if kind == 'column' else 'keys are'} {there}; "
            f"rename them or, for a dataset, name the columns with params.data.{params} (auto: the usual names)"
        )
    image = found["image"][0]
    captions = tuple(index for index in found["caption"] if index != image)
    if not captions:
        raise MissingColumnError(
            f"the {kind} {names[image]} holds the images and cannot hold the captions; name another one in "
            "params.data.caption_column"
        )
    ids = [index for index, name in enumerate(names) if name in _IDS]
    others = [index for index, name in enumerate(names) if name in USUAL_NAMES["image"]]
    return Columns(
        image,
        captions,
        split=next(iter(found["split"]), None),
        count=len(names),
        names=tuple(dict.fromkeys((*ids, image, *others))),
        references=next(iter(_match(names, ["references", "reference"])), None),
        error=next(iter(_match(names, ["error"])), None),
        ignored=tuple(_describe_ignored(names, {**found, "caption": list(captions)}, options, kind)),
    )


def _describe_ignored(
    names: Sequence[str], found: Mapping[str, Sequence[int]], options: ReadOptions, kind: Literal["column", "key"]
) -> Iterator[str]:
    """What is not read of each role whose column the user has not named. Ids may stand beside the image's name.

    Of captions that a pattern found, also what is read.
    """
    for role, usual in {**USUAL_NAMES, "caption": USUAL_NAMES["caption"] + GENERATED_NAMES}.items():
        read = found[role] if role == "caption" else found[role][:1]
        by_pattern = role == "caption" and any(names[index] not in usual for index in read)
        taken = {*read, *found["image"][:1]}
        others = [
            index
            for index, name in enumerate(names)
            if index not in taken and name not in _IDS
            if name in usual or _NUMBERED.sub("_*", name) in usual or (by_pattern and _DESCRIPTION.fullmatch(name))
        ]
        several = len(read) > 1
        if (others or (several and by_pattern)) and _requested(role, options) == AUTO:
            unread = f", not from {_named(kind, names, others)}" if others else ""
            yield f"the {role}{'s are' if several else ' is'} read from {_named(kind, names, read)}{unread}"


def _named(kind: str, names: Sequence[str], indices: Sequence[int]) -> str:
    """Columns with their numbers, because two may have one name; or keys."""
    shown = (f"{index + 1} ({names[index]!r})" if kind == "column" else repr(names[index]) for index in indices)
    return " and ".join(f"{kind} {one}" for one in shown)


def count_known_columns(header: Sequence[str]) -> int:
    """How many of image, caption and split have one of their usual names in the header."""
    names = [normalize_column(name) for name in header]
    return sum(_match_usual(names, role) != [] for role in USUAL_NAMES)


def normalize_column(name: str) -> str:
    """A column's name for comparison: `Image Name` becomes `image_name`."""
    return "_".join(name.strip().strip("\"'\ufeff").lower().split())


def _requested(role: str, options: ReadOptions) -> str:
    return {"image": options.image_column, "caption": options.caption_column, "split": options.split_column}[role]


def _match_usual(names: Sequence[str], role: str) -> list[int]:
    """The indices that match the first usual name of a role."""
    return _match(["" if _DESCRIPTION.fullmatch(name) else name for name in names], USUAL_NAMES[role])


def _match(names: Sequence[str], candidates: Sequence[str]) -> list[int]:
    """The indices that match the first candidate (a name or pattern) with any match."""
    for candidate in candidates:
        found = [index for index, name in enumerate(names) if fnmatchcase(name, candidate)]
        if found:
            return found
    return []
