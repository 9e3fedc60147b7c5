"""Stage `prepare`: turns a dataset in any format into plain tables.

Reads the captions and the bytes of the images. Writes captions.csv (image, caption, split), images.csv (image, path,
sha256, split) and skipped.csv (stage, file, line, image, reason), in the byte order of the image names. An image's path
is that of a file, or leads into an archive (see `pipeline.archives`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.archives import is_archive, open_archive, read_image_bytes
from pipeline.datasets.detection import Candidate, collect_entries, detect_format
from pipeline.datasets.entries import (
    AUTO,
    SPLITS,
    CaptionEntry,
    ReadOptions,
    SkippedEntry,
    check_encodable,
    skip_entry,
)
from pipeline.datasets.image_hashes import hash_images
from pipeline.datasets.image_index import ImageIndex, number_of
from pipeline.datasets.image_root import (
    are_of_different_splits,
    explain_missing,
    find_image_root,
    likely_image_roots,
    refuse_shared_names,
)
from pipeline.datasets.splits import assign_splits, describe_drawn_splits, drop_leaks
from pipeline.datasets.tables import CAPTION_COLUMNS, IMAGE_COLUMNS, SKIPPED_COLUMNS, check_share
from pipeline.encoders.images import ImageError, describe_image
from pipeline.errors import DataError
from pipeline.files import check_writable, write_csv
from pipeline.inference.initial_metadata import check_initial_model
from pipeline.progress import Progress, no_progress
from pipeline.text.writing_systems import share_with_dropped_letters, share_without_spaces
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.params import Params

_SHOWN = 10
"""Duplicates or folders that an error lists."""


@dataclass(frozen=True)
class PrepareFiles:
    """Outputs of the stage; its inputs are `params.data.captions` and `params.data.images`."""

    captions: Path = paths.CAPTIONS
    images: Path = paths.IMAGES
    skipped: Path = paths.SKIPPED_ROWS
    hash_cache: Path | None = None
    """Keeps the sha256 of unchanged images between runs. It is no output: without it, all images are hashed."""


@dataclass(frozen=True)
class PrepareReport:
    """What the dataset holds."""

    format: str
    evidence: str
    """What the format was recognized by; empty where the params name it."""
    images: dict[str, int]
    """By split."""
    captions: int
    skipped: tuple[SkippedEntry, ...]
    image_root: Path
    """The folder or archive in which the images were found."""
    hashed: int
    """Images that were read, because the hash cache did not have them."""
    notes: tuple[str, ...]
    """Assumptions about the dataset, and what of it is not used or is there twice."""
    ignored_files: tuple[str, ...]
    """Files in `image_root` that are in no image format that is read."""
    share_without_spaces: float
    """The share of captions in a writing system without spaces between words."""
    share_with_dropped_letters: float
    """The share of captions that hold letters or marks that the word tokenizer drops."""


def prepare(files: PrepareFiles, params: "Params", *, progress: Progress = no_progress) -> PrepareReport:
    """Read a dataset, find and hash its images, assign splits, and write the tables.

    Raises `DataError` when no caption can be used, when more is skipped than `params.data.max_skipped` allows, and when
    an image is in two splits; `DiskError`; and as `check_initial_model` does.
    """
    check_writable(files.captions, files.images, files.skipped)
    check_initial_model(params)
    data = params.data
    source = Path(data.captions)
    options = ReadOptions(data.encoding, data.image_column, data.caption_column, data.split_column)
    dataset = detect_format(source, options) if data.format == AUTO else Candidate(source, "", format=data.format)
    found = collect_entries(dataset, options, progress)
    index = _index_images(Path(data.images), dataset.captions, found.captions)
    refuse_shared_names(found.captions, dataset.captions, index.root)
    image_paths, captions, missing = _locate_images(index, found.captions, progress)
    hashes = hash_images(list(image_paths.values()), files.hash_cache, progress)
    sha256 = {image: hashes.sha256[path] for image, path in image_paths.items() if path in hashes.sha256}
    problems = {image: hashes.unreadable[path] for image, path in sorted(image_paths.items()) if image not in sha256}
    problems |= _broken_copies(sha256, image_paths, captions)
    missing += _skip_images(problems, captions)
    sha256 = {image: digest for image, digest in sha256.items() if image not in problems}
    captions = [entry for entry in captions if entry.image in sha256]
    if unusable := (*found.skipped, *missing):
        _write_skipped(files.skipped, unusable)
    _check_share("images", missing, len(sha256) + len(missing), data.max_skipped, files.skipped)
    _check_share("captions", found.skipped, len(found.skipped) + len(found.captions), data.max_skipped, files.skipped)
    leaks: list[SkippedEntry] = []
    if data.leaks == "drop":
        captions, leaks = drop_leaks(captions, sha256)
        remaining = {entry.image for entry in captions}
        sha256 = {image: digest for image, digest in sha256.items() if image in remaining}
    splits = assign_splits(captions, sha256, params.seed)
    _refuse_leaks(sha256, splits)
    _refuse_empty_splits(splits, data.captions)

    skipped = (*found.skipped, *missing, *leaks)
    names = sorted(sha256, key=str.encode)
    captions.sort(key=lambda entry: entry.image.encode())  # stable: an image's captions keep their order
    write_csv(files.captions, CAPTION_COLUMNS, ((one.image, one.caption, splits[one.image]) for one in captions))
    write_csv(files.images, IMAGE_COLUMNS, ((name, image_paths[name], sha256[name], splits[name]) for name in names))
    _write_skipped(files.skipped, skipped)
    counts = Counter(splits.values())
    return PrepareReport(
        format=dataset.format,
        evidence=dataset.evidence,
        images={split: counts[split] for split in SPLITS},
        captions=len(captions),
        skipped=skipped,
        image_root=index.root,
        hashed=hashes.hashed,
        notes=(
            *found.notes,
            *_describe_linked_folders(index.root, image_paths.values()),
            *_describe_numbers(image_paths),
            *_describe_archives(image_paths.values()),
            *_describe_words(captions),
            *filter(None, [describe_drawn_splits(captions, sha256)]),
            *_describe_unused(index, set(image_paths.values()), found.skipped),
            *_describe_duplicates(sha256, leaks, files.skipped),
            *_describe_repetition(captions, splits),
        ),
        ignored_files=tuple(index.ignored_files()),
        share_without_spaces=share_without_spaces(entry.caption for entry in captions),
        share_with_dropped_letters=share_with_dropped_letters(entry.caption for entry in captions),
    )


def _index_images(folder: Path, source: Path, captions: Sequence[CaptionEntry]) -> ImageIndex:
    """The index of `folder` if it holds some of the images, otherwise of a place near the captions that does."""
    names = list(dict.fromkeys(entry.image for entry in captions))
    index = ImageIndex(folder)
    if folder.exists() and any(index.find(name) for name in names):
        return index
    places = likely_image_roots(source, source, names)
    root = find_image_root(places, names, source)
    if root is None:
        shown = ", ".join(map(str, places[:_SHOWN]))
        none_found = (
            f"{folder}: holds none of the {counted(len(names), 'image')} that {source} names, such as "
            f"{names[0][:200]}; nor do {shown}; set params.data.images"
        )
        raise DataError(explain_missing([folder, *places], names[0], none_found))
    if root.rival and are_of_different_splits(root.index.root, root.rival):
        raise DataError(
            f"{folder}: holds none of the images; {root.index.root} and {root.rival} hold different ones of the same "
            "names; set params.data.images"
        )
    return root.index


def _locate_images(
    index: ImageIndex, captions: Sequence[CaptionEntry], progress: Progress
) -> tuple[dict[str, str], list[CaptionEntry], list[SkippedEntry]]:
    """The path of each image, the captions of those images, and the images that cannot be used.

    Where several names mean one file, such as two that differ in case, all its captions get the first name.
    """
    listed = sorted({entry.image for entry in captions}, key=str.encode)
    names: dict[str, str] = {}
    by_path: dict[str, str] = {}
    problems: dict[str, str] = {}
    for number, image in enumerate(listed, start=1):
        path = index.find(image)
        if path is None:
            problems[image] = index.problem(image)
        elif check_encodable(path):
            problems[image] = f"its path {path!a} is not UTF-8; rename the file or folder"
        else:
            names[image] = by_path.setdefault(path, image)
        if number % 1000 == 0:
            progress(number, len(listed), "images found")
    located = [
        entry if names[entry.image] == entry.image else replace(entry, image=names[entry.image])
        for entry in captions
        if entry.image in names
    ]
    return {image: path for path, image in by_path.items()}, located, _skip_images(problems, captions)


def _describe_linked_folders(root: Path, image_paths: Iterable[str]) -> Iterator[str]:
    """A note on each folder of images that is a link, because dvc hashes linked files but not linked folders."""
    folders = {Path(path.partition("::")[0]).parent for path in image_paths}
    above = {one for folder in folders for one in (folder, *folder.parents)}
    for folder in sorted(above):
        if folder != root and folder.is_relative_to(root) and folder.is_symlink():
            yield f"{folder}: a symbolic link, in which DVC sees no changes; `dvc repro -f prepare` reads it again"


def _describe_numbers(image_paths: Mapping[str, str]) -> Iterator[str]:
    """A note on names that are numbers, such as 7, where the file's name is not, such as 000007.jpg."""
    files = {name: PurePosixPath(path.rpartition("::")[2]) for name, path in image_paths.items() if number_of(name)}
    inexact = [(name, file.name) for name, file in files.items() if file.stem != PurePosixPath(name).stem]
    for name, file in inexact[:1]:
        names = counted(len(inexact), "image name")
        yield f"{names} matched by number, e.g. {name} to {file}"


def _describe_words(captions: Sequence[CaptionEntry]) -> Iterator[str]:
    """A note where no caption has several words, except in writing without spaces."""
    if all(entry.caption.isascii() and " " not in entry.caption for entry in captions):
        yield "every caption is a single word; if lists hold the words of one caption, join each list to a text"


def _describe_archives(image_paths: Iterable[str]) -> Iterator[str]:
    """A note on each archive with several members of one name."""
    archives = {Path(path.partition("::")[0]) for path in image_paths if "::" in path}
    for archive in sorted(filter(is_archive, archives)):
        if repeated := open_archive(archive).repeated:
            members = counted(len(repeated), "member")
            yield f"{archive}: {members} replaced by a later one of the same name, such as {repeated[0]}"


def _describe_unused(index: ImageIndex, used: Collection[str], skipped: Sequence[SkippedEntry]) -> Iterator[str]:
    """A note on images that no caption names, except those that the reader has listed as skipped."""
    listed = {entry.image for entry in skipped}
    files = index.files()
    if unused := sum(files[name] not in used and name not in listed for name in index.names()):
        images = counted(unused, "image without a caption is", "images without a caption are")
        yield f"{index.root}: {images} not used"


def _describe_duplicates(sha256: Mapping[str, str], leaks: Sequence[SkippedEntry], listed: Path) -> Iterator[str]:
    """Notes on images that are in a split twice, and on those that are left out because another split has them."""
    if leaks:
        images = counted(len(leaks), "image is", "images are")
        yield f"{images} left out of a split, because another split has the same image; {listed}"
    if duplicates := len(sha256) - len(set(sha256.values())):
        yield f"{counted(duplicates, 'duplicate')} of another image in the same split"


def _describe_repetition(captions: Sequence[CaptionEntry], splits: Mapping[str, str]) -> Iterator[str]:
    """A note on captions of val and of test that are also training captions."""
    train = {entry.caption for entry in captions if splits[entry.image] == "train"}
    seen = Counter(splits[entry.image] for entry in captions if entry.caption in train)
    if shown := ", ".join(f"{seen[split]:,} {split}" for split in ("val", "test") if seen[split]):
        yield f"captions that are also, word for word, in the train split: {shown}"


def _skip_images(problems: Mapping[str, str], captions: Sequence[CaptionEntry]) -> list[SkippedEntry]:
    """The images with their problems, each in the place of its first caption."""
    first = {entry.image: entry for entry in reversed(captions)}
    return [skip_entry(image, problem, first[image].file, first[image].line) for image, problem in problems.items()]


def _broken_copies(
    sha256: Mapping[str, str], image_paths: Mapping[str, str], captions: Sequence[CaptionEntry]
) -> dict[str, str]:
    """The problem of each file of the same bytes in several splits that is no image, such as downloaded error pages."""
    splits: dict[str, set[str]] = defaultdict(set)
    images: dict[str, list[str]] = defaultdict(list)
    for entry in captions:
        if entry.split and entry.image in sha256:
            splits[sha256[entry.image]].add(entry.split)
    for image, digest in sha256.items():
        images[digest].append(image)
    broken: dict[str, str] = {}
    for digest, its_splits in splits.items():
        if len(its_splits) > 1 and (problem := _image_problem(image_paths[images[digest][0]])):
            broken |= dict.fromkeys(images[digest], problem)
    return broken


def _image_problem(path: str) -> str | None:
    """Why a file cannot be an image; None when its header can be read."""
    try:
        describe_image(read_image_bytes(path), header_only=True)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ImageError as error:
        return str(error)
    return None


def _write_skipped(path: Path, skipped: Iterable[SkippedEntry]) -> None:
    write_csv(path, SKIPPED_COLUMNS, (("prepare", *astuple(entry)) for entry in skipped))


def _check_share(what: str, skipped: Sequence[SkippedEntry], total: int, max_skipped: float, listed: Path) -> None:
    lines = [f"{one.place}: {one.image or '(no name)'}: {one.reason}" for one in skipped]
    check_share(lines, total, max_skipped, problem=f"{what} are unusable", remedy="correct them", listed=listed)


def _refuse_leaks(sha256: Mapping[str, str], splits: Mapping[str, str]) -> None:
    """An image that is both trained on and scored, under whatever name, makes the scores meaningless."""
    copies: dict[str, list[str]] = defaultdict(list)
    for image in sorted(sha256, key=str.encode):
        copies[sha256[image]].append(image)
    pairs = [
        (images[0], other) for images in copies.values() for other in images[1:] if splits[other] != splits[images[0]]
    ]
    if pairs:
        shown = "\n".join(f"  {one} ({splits[one]}) and {two} ({splits[two]})" for one, two in pairs[:_SHOWN])
        more = f"\n  and {len(pairs) - _SHOWN:,} more" if len(pairs) > _SHOWN else ""
        raise DataError(
            f"{counted(len(pairs), 'pair of images is', 'pairs of images are')} identical and in two splits:\n"
            f"{shown}{more}\n"
            "keep one image of each pair, assign both to one split, or set params.data.leaks to drop"
        )


def _refuse_empty_splits(splits: Mapping[str, str], source: str) -> None:
    counts = Counter(splits.values())
    for split in ("train", "val"):
        if not counts[split]:
            shown = ", ".join(f"{counts[one]} {one}" for one in SPLITS)
            raise DataError(
                f"{source}: no image is in the {split} split ({shown}), and training needs train and val images; "
                "assign splits to the images, or add images"
            )
