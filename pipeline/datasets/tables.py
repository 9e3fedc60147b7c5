"""The tables that the stages write: their columns, and how they are read."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import read_csv

CAPTION_COLUMNS = ("image", "caption", "split")
IMAGE_COLUMNS = ("image", "path", "sha256", "split")
SKIPPED_COLUMNS = ("stage", "file", "line", "image", "reason")
_SHA256 = re.compile("[0-9a-f]{64}")


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
