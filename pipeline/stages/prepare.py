"""prepare: a dataset in its own format becomes two plain tables.

Reads the captions and the pictures' bytes. Writes captions.csv (image, caption, split), images.csv (image, path,
sha256, split) and skipped.csv (stage, file, line, image, reason), each in the order of the pictures' ids.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.captions.coco import read_coco
from pipeline.captions.flickr8k import read_flickr8k
from pipeline.captions.rows import SPLITS, Captions, Row, Skipped
from pipeline.captions.splits import assign_splits
from pipeline.captions.table import read_table
from pipeline.errors import DataError
from pipeline.files import sha256_of, write_csv
from pipeline.progress import Progress, silent
from pipeline.stages.tables import CAPTION_COLUMNS, IMAGE_COLUMNS, SKIPPED_COLUMNS

if TYPE_CHECKING:
    from pipeline.params import DataParams

READERS: dict[str, Callable[[Path], Captions]] = {"table": read_table, "flickr8k": read_flickr8k, "coco": read_coco}


@dataclass(frozen=True)
class Prepared:
    """What was found."""

    pictures: dict[str, int]
    """By split."""
    captions: int
    skipped: tuple[Skipped, ...]
    images: Path
    """The folder that the pictures were found in."""


def prepare(
    params: "DataParams",
    *,
    seed: int,
    captions_out: Path,
    images_out: Path,
    skipped_out: Path,
    progress: Progress = silent,
) -> Prepared:
    """Raises `DataError` when nothing, or less than `max_bad` allows, can be used."""
    source, folder = Path(params.captions), Path(params.images)
    found = READERS[params.format](source)
    rows = assign_splits(found.rows, seed)
    if not rows:
        raise DataError(_nothing(source, found))
    names = sorted({row.image for row in rows}, key=str.encode)
    folder = _image_folder(folder, source, names)
    splits = _split_of_each_picture(rows)
    digests, skipped = _hash(folder, names, rows, progress)
    skipped = [*found.skipped, *skipped]
    rows = [row for row in rows if row.image in digests]
    bad_pictures = len(names) - len(digests)
    _refuse_too_many("pictures", bad_pictures, len(names), params.max_bad, skipped[len(found.skipped) :])
    _refuse_too_many("caption rows", len(found.skipped), len(found.skipped) + len(found.rows), params.max_bad, skipped)
    _refuse_empty_train(splits, digests, source)

    rows.sort(key=lambda row: row.image.encode())  # stable: a picture's captions stay in the dataset's order
    write_csv(captions_out, CAPTION_COLUMNS, ((row.image, row.caption, row.split) for row in rows))
    write_csv(
        images_out,
        IMAGE_COLUMNS,
        ((image, (folder / image).as_posix(), digests[image], splits[image]) for image in names if image in digests),
    )
    write_csv(skipped_out, SKIPPED_COLUMNS, (("prepare", one.file, one.line, one.image, one.reason) for one in skipped))
    counts = Counter(splits[image] for image in digests)
    return Prepared({split: counts[split] for split in SPLITS}, len(rows), tuple(skipped), folder)


def _nothing(source: Path, found: Captions) -> str:
    if not found.skipped:
        return f"{source}: holds no captions; check params.data.captions and params.data.format"
    first = found.skipped[0]
    return f"{source}: no usable caption; the first of {len(found.skipped)} refused: line {first.line}: {first.reason}"


def _image_folder(folder: Path, source: Path, names: list[str]) -> Path:
    """`folder` where it holds some of the pictures; else the place beside the captions where the formats have them."""
    beside = source if source.is_dir() else source.parent
    candidates = [folder, beside / "Images", beside / "images", beside, beside.parent]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    places = ", ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise DataError(
        f"{folder}: holds none of the {len(names)} pictures that {source} names, such as {names[0]}; "
        f"looked in {places}; set params.data.images"
    )


def _split_of_each_picture(rows: list[Row]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for row in rows:
        assert row.split is not None
        if splits.setdefault(row.image, row.split) != row.split:
            raise DataError(
                f"{row.file}, line {row.line}: {row.image} is in {row.split} and also in {splits[row.image]}; "
                "a picture belongs to one split"
            )
    return splits


def _hash(folder: Path, names: list[str], rows: list[Row], progress: Progress) -> tuple[dict[str, str], list[Skipped]]:
    """The sha256 of each picture that can be read, and the others."""
    places: dict[str, Row] = {}
    for row in rows:
        places.setdefault(row.image, row)
    digests, skipped = {}, []
    with ThreadPoolExecutor() as pool:
        for number, (name, result) in enumerate(zip(names, pool.map(lambda n: _digest(folder, n), names), strict=True)):
            if isinstance(result, str):
                digests[name] = result
            else:
                row = places[name]
                skipped.append(Skipped(row.file, row.line, name, result[0]))
            progress(number + 1, len(names), "pictures hashed")
    return digests, skipped


def _digest(folder: Path, name: str) -> str | tuple[str]:
    """A sha256, or the reason in a tuple."""
    path = folder / name
    try:
        if not path.is_file():
            return ("no such picture" if not path.exists() else "not a file",)
        if not path.resolve().is_relative_to(folder.resolve()):
            return ("the picture's path leaves the image folder",)
        return sha256_of(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return (f"cannot be read: {error}",)


def _refuse_too_many(what: str, bad: int, total: int, allowed: float, skipped: list[Skipped]) -> None:
    if bad > allowed * total:
        shown = "\n".join(f"  {one.file}, line {one.line}: {one.image}: {one.reason}" for one in skipped[:5])
        raise DataError(
            f"{bad} of {total} {what} are unusable, more than params.data.max_bad = {allowed} allows:\n{shown}\n"
            "mend them or raise params.data.max_bad"
        )


def _refuse_empty_train(splits: dict[str, str], digests: dict[str, str], source: Path) -> None:
    counts = Counter(splits[image] for image in digests)
    for split in ("train", "val"):
        if not counts[split]:
            raise DataError(f"{source}: no picture is in the {split} split ({dict(counts)}); training needs both")
