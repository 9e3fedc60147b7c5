"""The cards of the report: one per captioned image, with a thumbnail and attention weights for the examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.archives import read_image_bytes
from pipeline.encoders.images import ImageError, thumbnail, visible_region
from pipeline.encoders.spec import EncoderSpec
from pipeline.metrics.evaluation_file import EvaluationFile, ImageRecord

SIDE = 280
"""Longest side of a thumbnail, in pixels."""
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""A region's attention weight is one character: its share of the word's largest weight, in 64 levels. static/report.js
reads them."""
FILTERS = {
    "shared": "of several images",
    "unfinished": "end in a function word",
    "repeats": "repeat themselves",
    "no_match": "share no four {unit} in a row with a reference",
}
"""The titles of `caption_flags`."""
OF_WORDS = ("unfinished", "repeats")
"""Flags that mean nothing in captions of characters."""


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image."""

    uri: str
    """A `data:` URL."""
    width: int
    height: int


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of a caption's words."""

    levels: str
    """For each word one character per region, row by row from the top left; words are separated by spaces."""
    grid: int
    region: tuple[float, float, float, float]
    """What the encoder sees of the image: left, top, right, bottom, as shares of its sides."""


@dataclass(frozen=True)
class Card:
    """A captioned image as the report shows it."""

    record: ImageRecord
    thumbnail: Thumbnail | None = None
    """None when the image is no example, or its file cannot be read any more."""
    attention: AttentionMap | None = None


def make_cards(evaluation: EvaluationFile, files: Mapping[str, Path], spec: EncoderSpec) -> list[Card]:
    """One card per image of the evaluation, in its order; `files` holds the path of each image."""
    return [_card(record, files.get(record.image), spec) for record in evaluation.images]


def filters(evaluation: EvaluationFile) -> list[tuple[str, str, int]]:
    """Each flag with its title and the number of captions that have it."""
    counts = Counter(flag for record in evaluation.images for flag in record.flags)
    unit = evaluation.model.unit
    return [
        (flag, title.format(unit=unit), counts[flag])
        for flag, title in FILTERS.items()
        if unit == "words" or flag not in OF_WORDS
    ]


def attention_levels(weights: Sequence[Sequence[float]]) -> str:
    """Attention weights (T, R) in the form of `AttentionMap.levels`."""
    return " ".join("".join(LEVELS[round(63 * max(w, 0.0) / (max(word) or 1.0))] for w in word) for word in weights)


def _card(record: ImageRecord, file: Path | None, spec: EncoderSpec) -> Card:
    if not record.example or file is None:
        return Card(record)
    try:
        small = Thumbnail(*thumbnail(read_image_bytes(file), SIDE))
    except (OSError, ImageError):
        return Card(record)  # the file is gone since it was encoded; its caption is shown anyway
    weights = record.attention
    words = len(record.caption.split())
    if not weights or len(weights) != words or len(weights[0]) != spec.grid**2:
        return Card(record, small)
    left, top, right, bottom = visible_region(spec.preprocessing, small.width, small.height)
    region = (round(left, 4), round(top, 4), round(right, 4), round(bottom, 4))
    return Card(record, small, AttentionMap(attention_levels(weights), spec.grid, region))
