"""`captioner init`: look at a dataset, say what it is, and point params.yaml at it."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, progress_bar, read, say, unspaced_warning
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.datasets.entries import Captions
    from pipeline.datasets.formats import DetectedFormat
    from pipeline.datasets.table import Columns


def init(
    dataset: Annotated[Path, typer.Argument(help="The dataset's folder, its captions file, or an archive.")],
    images: Annotated[Path | None, typer.Option(help="Where the pictures are, when they are elsewhere.")] = None,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Recognise a dataset's format and write the `data` section of params.yaml."""
    from pipeline.datasets.formats import detect_format
    from pipeline.datasets.table import Columns
    from pipeline.params import write_section
    from pipeline.text.writing_systems import share_without_spaces

    given = read(params)
    if not dataset.exists():
        raise DataError(f"{dataset}: no such file or folder")
    columns = Columns(given.data.image_column, given.data.caption_column, given.data.split_column)
    found = detect_format(dataset, encoding=given.data.encoding, columns=columns)
    captions = _captions(found, given.data.encoding, columns)
    say(f"format: {found.format}: {found.saw}")
    for note in captions.notes:
        say(f"note: {note}")
    names = sorted({row.image for row in captions.rows})
    say(f"captions: {len(captions.rows)} of {len(names)} pictures; {_splits(captions)}")
    if captions.skipped:
        one = captions.skipped[0]
        say(f"skipped: {len(captions.skipped)} rows, the first {one.file}, line {one.line}: {one.reason}")
    place = _place(images, found.captions, dataset, names, found.format)
    share = share_without_spaces(row.caption for row in captions.rows)
    if share >= 0.1 and given.vocab.unit == "word":
        say(unspaced_warning(share))
    values = {"format": found.format, "captions": _written(found.captions), "images": _written(place)}
    write_section(params, "data", values)
    for key, value in values.items():
        say(f"{params}: data.{key}: {value}")
    for key in KEPT:
        if getattr(given.data, key) != "auto":
            say(f"{params}: data.{key}: {getattr(given.data, key)} (as it was)")
    lacking = _lacking_in_copies([found.captions, place])
    if lacking:
        say(
            f"note: {' and '.join(lacking)}: lacking in the copies of the project that `dvc exp run --temp` and "
            "`--queue` run in, until you `dvc add` and `git add` (see docs/datasets.md)"
        )
    say("next: dvc repro")


KEPT = ("encoding", "image_column", "caption_column", "split_column")
"""What a user says of a dataset that cannot be recognised without it."""


def _captions(found: "DetectedFormat", encoding: str, columns: "Columns") -> "Captions":
    """Raises `DataError` where there is none."""
    from pipeline.datasets.entries import Captions
    from pipeline.datasets.formats import read_captions

    captions = Captions()
    entries = read_captions(found.format, found.captions, encoding=encoding, columns=columns)
    with progress_bar("init") as progress:
        for number, entry in enumerate(entries, start=1):
            captions.add(entry)
            if number % 1000 == 0:
                progress(number, 0, "captions read")
    if not captions.rows:
        reason = f": {captions.skipped[0].reason}" if captions.skipped else ""
        raise DataError(f"{found.captions}: {found.saw}, but no usable caption{reason}")
    return captions


def _splits(captions: "Captions") -> str:
    from collections import Counter

    count = Counter(split for _, split in {(row.image, row.split) for row in captions.rows})
    if set(count) == {None}:
        return "no splits, so 80/10/10 will be drawn"
    return ", ".join(f"{number} {split or 'without a split'}" for split, number in sorted(count.items(), key=str))


def _place(images: Path | None, captions: Path, dataset: Path, names: list[str], format: str) -> Path:
    """Where the pictures are, with a line on how many. Raises `DataError`."""
    from pipeline.datasets.image_index import ImageIndex

    if format == "folder" and images is None:
        images = captions.parent if captions.name.startswith("metadata.") else captions
    sample = names[:: max(1, len(names) // 200)]
    best, hits = Path(), 0
    for place in [images] if images else _places(captions, dataset):
        pictures = ImageIndex(place)
        found = sum(pictures.find(name) is not None for name in sample)
        if found > hits:
            best, hits = place, found
        if hits == len(sample):
            break
    if not hits:
        where = images or f"{dataset} and the folders in it"
        raise DataError(f"{where}: holds none of the pictures, such as {names[0]}; give their place with --images")
    say(f"pictures: {best}" + ("" if hits == len(sample) else f" (only {hits} of {len(sample)} looked for are there)"))
    return best


def _places(captions: Path, dataset: Path) -> list[Path]:
    """Folders and archives that may hold the pictures, the likeliest first."""
    from pipeline.archives import ARCHIVES

    top = dataset if dataset.is_dir() else dataset.parent
    beside = captions if captions.is_dir() else captions.parent
    roots = list(dict.fromkeys([beside, top, beside.parent]))
    below = [path for root in dict.fromkeys([beside, top]) for path in sorted(root.iterdir())]
    folders = [path for path in below if path.is_dir() and not path.name.startswith(".")]
    inner = [path for folder in folders[:100] for path in sorted(folder.iterdir()) if path.is_dir()][:100]
    archives = [path for path in below if path.suffix.lower() in ARCHIVES]
    return list(dict.fromkeys([*folders, *roots[:2], *inner, *archives, *roots[2:]]))


def _written(path: Path) -> str:
    """Relative where it lies in the project, absolute elsewhere: copies of the project find what is tracked, too."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()


def _lacking_in_copies(places: Iterable[Path]) -> list[str]:
    """Those in the project that git does not have, nor dvc by a file that git has; none outside a git repository.

    A place within another one is not named again: dvc adds them together.
    """
    inside = [place for place in dict.fromkeys(map(_written, places)) if not os.path.isabs(place)]
    if not inside or not _in_git("."):
        return []
    lacking = [Path(place) for place in inside if not _in_git(place, *_dvc_files(place))]
    return [str(place) for place in lacking if not set(lacking) & set(place.parents)]


def _in_git(*places: str) -> bool:
    """Whether git tracks one of the places, or something below."""
    try:
        done = subprocess.run(
            ["git", "--literal-pathspecs", "ls-files", "--", *places], capture_output=True, check=False
        )
    except OSError:  # there is no git
        return False
    return bool(done.stdout)


def _dvc_files(place: str) -> list[str]:
    """The .dvc files and the dvc.yaml by which dvc tracks a place, or something below."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return [out.stage.path for out in repo.find_outs_by_path(place, recursive=True, strict=False)]
    except DvcException:  # no repository of dvc, or one that does not have the place
        return []
