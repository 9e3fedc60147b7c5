"""Detects the format of a dataset and runs the reader of a format."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.archives import is_archive
from pipeline.datasets.caption_markup import clean_captions
from pipeline.datasets.entries import DatasetEntries, Entry, Note, ReadOptions, SkippedEntry, make_entry, split_in
from pipeline.datasets.registry import DRAWN, FORMATS
from pipeline.errors import DataError
from pipeline.progress import Progress
from pipeline.wording import counted, shown_names

_SHOWN = 5
"""Files whose problems an error names."""
_MAX_SUBFOLDERS = 50


@dataclass(frozen=True)
class Candidate:
    """The captions of a dataset, as a detector found them or as the params name them."""

    captions: Path
    """The file or folder to give to the format's reader."""
    evidence: str
    """What the format was recognized by; empty where the params name it."""
    by_name: bool = False
    """Whether a file has a name that the format prescribes. Such a candidate goes before those found by content."""
    problem: str = ""
    """Why the captions cannot be read after all, with the place."""
    format: str = ""
    """The name of the format. Detectors leave it out."""


def first_download(file: Path) -> Path | None:
    """`train.csv` for the browser's second download of it, `train (1).csv`; None where no such file is beside it."""
    copy = re.fullmatch(r"(.+?) ?\(\d+\)", file.stem)
    first = file.with_stem(copy[1]) if copy else None
    return first if first and first.exists() else None


def note_downloads(folder: Path, read: Collection[Path]) -> Iterator[Note]:
    """A note on each file of the folder that is a second download of one of those that are read."""
    for file in sorted(folder.glob("*(*).*")):
        if (first := first_download(file)) and first in read:
            yield Note(f"{file}: not read, as a second download of {first.name}; rename it, if it holds other captions")


def collect_entries(dataset: Candidate, options: ReadOptions, progress: Progress) -> DatasetEntries:
    """Read a dataset, without start and end markers. Raises `DataError`, also where no caption can be used."""
    found = DatasetEntries.collect(read_dataset(dataset.format, dataset.captions, options), progress)
    cleaned, notes = clean_captions([entry.caption for entry in found.captions])
    entries = [
        entry
        if entry.caption == caption
        else make_entry(entry.image, caption, entry.split, entry.file, entry.line)  # which may be empty now
        for entry, caption in zip(found.captions, cleaned, strict=True)
    ]
    found.captions = [entry for entry in entries if not isinstance(entry, SkippedEntry)]
    found.skipped += [entry for entry in entries if isinstance(entry, SkippedEntry)]
    found.notes += notes
    if not found.captions:
        if not found.skipped:
            raise DataError(
                f"{dataset.captions}: holds no captions in the format {dataset.format}; name another file, or set "
                "params.data.format"
            )
        first = found.skipped[0]
        problem = f"{counted(len(found.skipped), 'row')} skipped, the first in {first.place}: {first.reason}"
        raise DataError(f"{dataset.captions}: no usable caption; {problem}")
    return found


def read_dataset(format: str, path: Path, options: ReadOptions = ReadOptions()) -> Iterator[Entry]:
    """Read all entries of a dataset.

    Raises `DataError` when a file cannot be read at all, with the format that is detected where it is another one.
    """
    _check_exists(path)
    try:
        yield from _function("read", format)(path, options)
    except DataError as error:
        found, _ = _detect(path, options)
        if not found or found[0].format == format:
            raise
        raise DataError(f"{error}; params.data.format is {format}, but {found[0].format} is detected") from error


def detect_format(path: Path, options: ReadOptions = ReadOptions()) -> Candidate:
    """Detect the format of a captions file, an archive, or a folder that holds one, at most one folder deeper.

    Raises `DataError` with what was found instead.
    """
    _check_exists(path)
    found, problems = _detect(path, options)
    if not found and path.is_dir():
        below = (one for one in sorted(path.iterdir()) if one.is_dir() and not one.name.startswith("."))
        for folder in islice(below, _MAX_SUBFOLDERS):
            inner, more = _detect(folder, options)
            found, problems = found + inner, problems + more
        _refuse_folder_per_split(path, found)
    if not found:
        formats = "; ".join(f"{name}: {one.description}" for name, one in FORMATS.items())
        refusal = (
            f"{path}: no captions were recognized, no file is in a known format ({formats}); see docs/datasets.md, or "
            "name a captions file of another name itself"
        )
        raise DataError("\n  ".join([refusal, *problems[:_SHOWN]]))
    best, *others = found
    unused = dict.fromkeys(
        one.evidence if one.captions == path else one.captions.relative_to(path).as_posix()
        for one in others
        if one.captions != best.captions and path.is_dir()
    )
    folder = best.captions if best.captions.is_dir() else best.captions.parent
    place = f"; in {folder.relative_to(path).as_posix()}/" if folder != path and path.is_dir() else ""
    return replace(best, evidence=best.evidence + place + (f"; not used: {', '.join(unused)}" if unused else ""))


def _refuse_folder_per_split(path: Path, found: Sequence[Candidate]) -> None:
    """Raise `DataError` where captions of one format are in subfolders that are named after different splits."""
    if found:
        tops = (one.captions.relative_to(path).parts[0] for one in found if one.format == found[0].format)
        folders = list(dict.fromkeys(f"{top}/" for top in tops))
        of_splits = [folder for folder in folders if split_in(folder)]
        if len(set(map(split_in, of_splits))) > 1:
            raise DataError(
                f"{path}: captions are in {shown_names(of_splits)}; join them in one table with a column split and "
                f"image names such as {of_splits[0]}a.jpg (docs/datasets/table.md), or name one of the folders"
            )


def _check_exists(path: Path) -> None:
    """Raise `DataError` if there is no such file, with the command that makes it if DVC knows it."""
    if path.exists():
        return
    remedy = "check params.data.captions"
    if (path.parent / "dvc.yaml").is_file() or path.with_name(f"{path.name}.dvc").is_file():
        remedy += ", or make it with `dvc repro` or `dvc pull`"
        if path.parent == DRAWN:
            remedy += f", after `captioner init {path.parent}`"
    raise DataError(f"{path}: no such file or folder; {remedy}")


def files_named(path: Path, names: tuple[str, ...]) -> list[Path]:
    """The files of these names in a folder; `path` itself, whatever its name, where it is a text file."""
    if path.is_dir():
        return [path / name for name in names if (path / name).is_file()]
    return [] if is_archive(path) or path.suffix.lower() == ".json" else [path]


def find_file(path: Path, names: tuple[str, ...]) -> Path:
    """`path`, or the first of `names` in the folder. Raises `DataError`."""
    if not path.is_dir():
        return path
    found = files_named(path, names)
    if not found:
        raise DataError(f"{path}: holds neither {' nor '.join(names)}; check params.data.captions")
    return found[0]


def _detect(path: Path, options: ReadOptions) -> tuple[list[Candidate], list[str]]:
    """The formats that `path` may have, most certain first, and the problems of files that cannot be read."""
    formats = ["folder"] if is_archive(path) else list(FORMATS)
    candidates: list[Candidate] = []
    problems = []
    for name in formats:
        try:
            candidates += [replace(one, format=name) for one in _function("detect", name)(path, options)]
        except DataError as error:  # a file of this format's name that cannot be read
            problems.append(str(error))
    problems += [one.problem for one in candidates if one.problem]
    candidates.sort(key=lambda candidate: not candidate.by_name)
    return [one for one in candidates if not one.problem], list(dict.fromkeys(problems))


def _function(verb: str, format: str) -> Any:
    return getattr(import_module(FORMATS[format].module), f"{verb}_{format}")
