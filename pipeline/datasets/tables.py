"""The tables that the stages write: their columns, how they are read, and the list of what a stage skips."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import read_csv, write_csv

CAPTION_COLUMNS = ("image", "caption", "split")
IMAGE_COLUMNS = ("image", "path", "sha256", "split")
SKIPPED_COLUMNS = ("stage", "file", "line", "image", "reason")
_SHA256 = re.compile("[0-9a-f]{64}")
_SEPARATOR = " | "
"""Separates several references in one field; a `|` inside a reference is escaped with a backslash."""
_SHOWN = 5
"""Skipped images or captions that an error lists."""


@dataclass(frozen=True, slots=True)
class Image:
    """A row of images.csv."""

    image: str
    path: Path
    sha256: str
    split: str


def read_images(path: Path) -> Iterator[Image]:
    """Read images.csv row by row. Raises `DataError`, also for an image that is listed twice or a wrong sha256."""
    seen = set()
    for image, file, sha256, split in read_csv(path, IMAGE_COLUMNS):
        if image in seen:
            raise DataError(f"{path}: {image} is listed twice; run `dvc repro -f prepare`")
        if not _SHA256.fullmatch(sha256):
            raise DataError(f"{path}: {image}: {sha256[:80]!r} is no sha256; run `dvc repro -f prepare`")
        seen.add(image)
        yield Image(image, Path(file), sha256, split)


def read_captions(path: Path, split: str | None = None) -> dict[str, list[str]]:
    """Read captions.csv: the captions of each image (of one split) in the file's order. Raises `DataError`."""
    captions: dict[str, list[str]] = {}
    for image, caption, its_split in read_csv(path, CAPTION_COLUMNS):
        if split in (None, its_split):
            captions.setdefault(image, []).append(caption)
    return captions


def read_curves(path: Path) -> dict[str, list[float]]:
    """Read training.csv: the columns except the epoch's. Raises `DataError`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in (rows[0] if rows else {}) if name != "epoch"]
        return {name: [float(row[name]) for row in rows if row[name]] for name in names}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; run `dvc repro` first") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of numbers: {error}; run `dvc repro -f train`") from error


def join_references(captions: Sequence[str]) -> str:
    """Several captions in one field of a table, as in metrics/captions.csv."""
    return _SEPARATOR.join(caption.replace("\\", "\\\\").replace("|", "\\|") for caption in captions)


def write_scored_captions(
    path: Path,
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    scores: Mapping[str, Iterable[float]],
) -> None:
    """Write a row for each image: its caption, its scores by name, and its references. All have the same order."""
    rows = (
        (image, captions[image], *(f"{value:.4f}" for value in values), join_references(texts))
        for (image, texts), *values in zip(references.items(), *scores.values(), strict=True)
    )
    write_csv(path, ("image", "caption", *scores, "references"), rows)


def split_references(text: str) -> tuple[str, ...]:
    """The inverse of `join_references`."""
    return tuple(re.sub(r"\\([\\|])", r"\1", caption) for caption in text.split(_SEPARATOR))


def check_share(
    skipped: Sequence[str], total: int, max_skipped: float, *, problem: str, remedy: str, listed: Path
) -> None:
    """Check that at most the share `max_skipped` of `total` images or captions is skipped.

    `skipped` has a line for each of them, with the reason; the file `listed` has them all. `problem` and `remedy`
    complete the message of the `DataError`: "3 of 9 images cannot be decoded, ...: repair them or raise
    params.data.max_skipped".
    """
    if len(skipped) > max_skipped * total:
        shown = "\n".join(f"  {line}" for line in skipped[:_SHOWN])
        more = f"\n  and {len(skipped) - _SHOWN:,} more, see {listed}" if len(skipped) > _SHOWN else ""
        raise DataError(
            f"{len(skipped)} of {total} {problem}, more than params.data.max_skipped = {max_skipped} allows:\n"
            f"{shown}{more}\n{remedy} or raise params.data.max_skipped"
        )


def add_skipped_images(path: Path, earlier: Path | None, images: Iterable[tuple[str, str, str]]) -> None:
    """Write the rows of prepare's list `earlier`, and the id, the file and the reason of `images` without features."""
    rows = [("extract", file, 0, image, reason) for image, file, reason in sorted(images)]
    write_csv(path, SKIPPED_COLUMNS, [*(read_csv(earlier, SKIPPED_COLUMNS) if earlier else ()), *rows])
