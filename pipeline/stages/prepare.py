"""prepare: a dataset in its own format becomes two plain tables.

Reads the captions and the pictures' bytes. Writes captions.csv (image, caption, split), images.csv (image, path,
sha256, split) and skipped.csv (stage, file, line, image, reason), each in the order of the pictures' ids. A picture's
path is a file's, or a place in an archive (see `pipeline.archives`).
"""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.datasets.entries import SPLITS, Captions, Entry, Row, Skipped, skip
from pipeline.datasets.formats import DetectedFormat, detect_format, read_captions
from pipeline.datasets.image_hashes import HashCache, hash_images
from pipeline.datasets.image_index import ImageIndex
from pipeline.datasets.splits import drawn_splits, splits_of
from pipeline.datasets.table import Columns
from pipeline.datasets.tables import CAPTION_COLUMNS, IMAGE_COLUMNS, SKIPPED_COLUMNS
from pipeline.errors import DataError
from pipeline.files import write_csv
from pipeline.progress import Progress, no_progress
from pipeline.text.writing_systems import share_without_spaces

if TYPE_CHECKING:
    from pipeline.params import DataParams

SHOWN = 10
"""Pictures that a message names of many."""


@dataclass(frozen=True)
class Prepared:
    """What was found."""

    format: str
    saw: str
    """What the format was recognised by; empty where params.yaml names it."""
    pictures: dict[str, int]
    """By split."""
    captions: int
    skipped: tuple[Skipped, ...]
    images: Path
    """The folder that the pictures were found in."""
    hashed: int
    """Pictures whose bytes were read; the others are as they were."""
    notes: tuple[str, ...]
    """What was taken for granted."""
    without_captions: int
    """Pictures beside the others that no caption names."""
    copies: int
    """Pictures with the same bytes as another one of their split."""
    known_captions: dict[str, int]
    """Captions of val and of test that stand word for word among the training captions."""
    share_without_spaces: float
    """The share of captions in a script without spaces between words."""


def prepare(
    params: "DataParams",
    *,
    seed: int,
    captions_out: Path,
    images_out: Path,
    skipped_out: Path,
    memory: Path | None = None,
    progress: Progress = no_progress,
) -> Prepared:
    """`memory`: a file outside the outputs in which pictures' digests are remembered.

    Raises `DataError` when nothing, or less than `max_skipped` allows, can be used, and when a picture is in two splits.
    """
    source = Path(params.captions)
    columns = Columns(params.image_column, params.caption_column, params.split_column)
    dataset = DetectedFormat(params.format, source, "")
    if params.format == "auto":
        dataset = detect_format(source, encoding=params.encoding, columns=columns)
    entries = read_captions(dataset.format, dataset.captions, encoding=params.encoding, columns=columns)
    found = Captions.of(_counted(entries, progress))
    if not found.rows:
        raise DataError(_nothing(source, found))
    pictures = _picture_folder(Path(params.images), dataset.captions, found.rows)
    places, rows, lost = _locate(pictures, found.rows, progress)
    digests = hash_images(list(places.values()), HashCache(memory), progress)
    sha256 = {image: digests.sha256[path] for image, path in places.items() if path in digests.sha256}
    unreadable = {image: digests.unreadable[path] for image, path in places.items() if path in digests.unreadable}
    first = {row.image: row for row in reversed(rows)}
    lost += [skip(image, reason, first[image].file, first[image].line) for image, reason in sorted(unreadable.items())]
    rows = [row for row in rows if row.image in sha256]
    skipped = [*found.skipped, *lost]
    _refuse_too_many("pictures", len(lost), len(sha256) + len(lost), params.max_skipped, lost)
    read = len(found.skipped) + len(found.rows)
    _refuse_too_many("caption rows", len(found.skipped), read, params.max_skipped, found.skipped)
    splits = splits_of(rows, sha256, seed)
    drawn = drawn_splits(rows, sha256)
    _refuse_leaks(sha256, splits)
    _refuse_empty(splits, source)

    names = sorted(sha256, key=str.encode)
    rows.sort(key=lambda row: row.image.encode())  # stable: a picture's captions stay in the dataset's order
    write_csv(captions_out, CAPTION_COLUMNS, ((row.image, row.caption, splits[row.image]) for row in rows))
    write_csv(images_out, IMAGE_COLUMNS, ((image, places[image], sha256[image], splits[image]) for image in names))
    write_csv(skipped_out, SKIPPED_COLUMNS, (("prepare", one.file, one.line, one.image, one.reason) for one in skipped))
    counts = Counter(splits.values())
    return Prepared(
        format=dataset.format,
        saw=dataset.saw,
        pictures={split: counts[split] for split in SPLITS},
        captions=len(rows),
        skipped=tuple(skipped),
        images=pictures.root,
        hashed=digests.hashed,
        notes=(*found.notes, *filter(None, [drawn])),
        without_captions=_unnamed(pictures, set(places.values()), found.skipped),
        copies=len(sha256) - len(set(sha256.values())),
        known_captions=_known_captions(rows, splits),
        share_without_spaces=share_without_spaces(row.caption for row in rows),
    )


def _counted(entries: Iterable[Entry], progress: Progress) -> Iterable[Entry]:
    for number, entry in enumerate(entries, start=1):
        if number % 1000 == 0:
            progress(number, 0, "captions read")
        yield entry


def _nothing(source: Path, found: Captions) -> str:
    if not found.skipped:
        return f"{source}: holds no captions; check params.data.captions and params.data.format"
    first = found.skipped[0]
    return f"{source}: no usable caption; the first of {len(found.skipped)} refused: line {first.line}: {first.reason}"


def _picture_folder(folder: Path, source: Path, rows: list[Row]) -> ImageIndex:
    """`folder` where it holds some of the pictures; else the place beside the captions where the formats have them."""
    names = list(dict.fromkeys(row.image for row in rows))
    asked = ImageIndex(folder)
    if folder.exists() and any(asked.find(name) for name in names):
        return asked
    beside = source if source.is_dir() else source.parent
    places = [beside / "Images", beside / "images", beside / "Flicker8k_Dataset", beside, beside.parent]
    for place in places:
        if any((place / name).is_file() for name in names):
            return ImageIndex(place)
    shown = ", ".join(dict.fromkeys(str(place) for place in [folder, *places]))
    raise DataError(
        f"{folder}: holds none of the {len(names)} pictures that {source} names, such as {names[0]}; "
        f"looked in {shown}; set params.data.images"
    )


def _locate(
    pictures: ImageIndex, rows: list[Row], progress: Progress
) -> tuple[dict[str, str], list[Row], list[Skipped]]:
    """The path of each picture, the rows with one name for each picture, and the pictures that are not there.

    Two names of one file (in upper and lower case, say) become the first in the order of names.
    """
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.image, row)
    names: dict[str, str] = {}
    by_path: dict[str, str] = {}
    lost = []
    for number, image in enumerate(sorted(first, key=str.encode), start=1):
        path = pictures.find(image)
        if path is None or pictures.leaves(path):
            there = os.path.exists(pictures.root / image)
            reason = (
                "the picture's path leaves the image folder" if path else "not a file" if there else "no such picture"
            )
            lost.append(skip(image, reason, first[image].file, first[image].line))
        else:
            names[image] = by_path.setdefault(path, image)
        if number % 1000 == 0:
            progress(number, len(first), "pictures found")
    kept = [
        row if names[row.image] == row.image else replace(row, image=names[row.image])
        for row in rows
        if row.image in names
    ]
    return {image: path for path, image in by_path.items()}, kept, lost


def _unnamed(pictures: ImageIndex, used: Collection[str], skipped: Sequence[Skipped]) -> int:
    """Pictures that no row names, as far as the reader has not reported them already."""
    reported = {one.image for one in skipped}
    listing = pictures.listing()
    return sum(listing[name] not in used and name not in reported for name in pictures.names())


def _refuse_too_many(what: str, bad: int, total: int, allowed: float, skipped: Sequence[Skipped]) -> None:
    if bad > allowed * total:
        shown = "\n".join(f"  {one.file}, line {one.line}: {one.image}: {one.reason}" for one in skipped[:5])
        raise DataError(
            f"{bad} of {total} {what} are unusable, more than params.data.max_skipped = {allowed} allows:\n{shown}\n"
            "mend them or raise params.data.max_skipped"
        )


def _refuse_leaks(sha256: Mapping[str, str], splits: Mapping[str, str]) -> None:
    """A picture that is scored and trained on, under whatever name, makes every score a lie."""
    same: dict[str, list[str]] = defaultdict(list)
    for image in sorted(sha256, key=str.encode):
        same[sha256[image]].append(image)
    pairs = [
        (images[0], other) for images in same.values() for other in images[1:] if splits[other] != splits[images[0]]
    ]
    if pairs:
        shown = "\n".join(f"  {one} ({splits[one]}) and {two} ({splits[two]})" for one, two in pairs[:SHOWN])
        more = f"\n  and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        raise DataError(
            f"{len(pairs)} pairs of pictures are the same picture in two splits:\n{shown}{more}\n"
            "keep one of each pair, or put both into one split"
        )


def _refuse_empty(splits: Mapping[str, str], source: Path) -> None:
    counts = Counter(splits.values())
    for split in ("train", "val"):
        if not counts[split]:
            raise DataError(
                f"{source}: no picture is in the {split} split ({dict(counts)}), and training needs both; give the "
                "pictures splits, or more pictures"
            )


def _known_captions(rows: Sequence[Row], splits: Mapping[str, str]) -> dict[str, int]:
    train = {row.caption for row in rows if splits[row.image] == "train"}
    known = Counter(splits[row.image] for row in rows if row.caption in train)
    return {split: known[split] for split in SPLITS[1:]}
