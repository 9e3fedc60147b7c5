"""The format `table`: CSV, TSV, JSON or JSON lines with the columns image, caption and, optionally, split.

It is one file, or one per split. `delimited_table.py` and `json_records.py` read the files.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.caption_rows import CaptionRow, read_entries
from pipeline.datasets.delimited_table import is_image_name, read_delimited
from pipeline.datasets.detection import Candidate, first_download, note_downloads
from pipeline.datasets.entries import (
    SPLIT_NAMES,
    SPLITS,
    CaptionEntry,
    Entry,
    Note,
    ReadOptions,
    SkippedEntry,
    split_in,
)
from pipeline.datasets.image_root import find_image_root, likely_image_roots
from pipeline.datasets.json_records import JSON, is_json_lines, read_json_lines, read_records
from pipeline.datasets.text_files import load_json, open_text, sniff_json
from pipeline.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", ".gz")
"""Of files that are tried as tables in a folder; the last ones are named with what they are instead."""
COMMON_NAMES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "dataset.csv", "annotations.csv")
METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables of a Hugging Face imagefolder, which is of the format `folder`."""
_MAX_FILES = 100
"""Files of a folder that are tried as tables of captions."""
_OBJECTS = re.compile(r'"\s*:\s*\[\s*\{')
_IMAGE_OBJECTS = re.compile(r'"images' + _OBJECTS.pattern)
_NOT_RECORDS = "JSON, but not objects with image and caption in a known layout; see docs/datasets.md"


def detect_table(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file; in a folder, a file of a common name, one file per split, or any table with captions."""
    if path.is_file():
        yield _candidate(path, options)
        return
    common = [path / name for name in COMMON_NAMES if (path / name).is_file()]
    for file in common:
        yield replace(_candidate(file, options), by_name=True)
    parts = files_by_split(path, options)
    per_split = _count_splits(parts, options) > 1
    images = {file.name: file.stem for file in path.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    names = {*images, *images.values()}  # a.jpg has a.json, a.jpg.json or, of Google, a.jpg.supplemental-metadata.json
    beside_images = [file for file in path.glob("*.json") if file.stem in names or Path(file.stem).stem in images]
    of_folder = {*filter(_is_of_one_image, beside_images), *(path / name for name in METADATA)}
    known = {*common, *(parts if per_split else ()), *of_folder}
    files = [file for suffix in SUFFIXES for file in sorted(path.glob(f"*{suffix}")) if file not in known]
    files.sort(key=lambda file: first_download(file) is not None)
    if len(files) > _MAX_FILES:
        more = f"{len(files) - _MAX_FILES:,} more files of captions or of something else are not tried"
        yield Candidate(path, "", problem=f"{path}: {more}; name the file of captions")
        del files[_MAX_FILES:]
    others = [_candidate(file, options, needs_image=True) for file in files]
    broken = [one.problem for one in others if one.problem and split_in(one.captions.stem)]
    unread = f"; not read: {'; '.join(broken)}" if broken else ""
    if per_split:
        yield Candidate(path, f"{', '.join(file.name for file in parts)}, one table per split{unread}")
    for one in others:
        yield replace(one, evidence=one.evidence + unread) if split_in(one.captions.stem) else one


def _is_of_one_image(file: Path) -> bool:
    """Whether JSON is an object of one image, not captions by image, if it is beside an image of its name."""
    start = sniff_json(file)
    return start.startswith("{") and not is_image_name(start[1:].partition(":")[0])


def _candidate(path: Path, options: ReadOptions, *, needs_image: bool = False) -> Candidate:
    """A file as a table."""
    return Candidate(path, f"{path.name}, a table", problem=_problem(path, options, needs_image=needs_image))


def _problem(path: Path, options: ReadOptions, *, needs_image: bool = False) -> str:
    """Why a file is not a table of captions; empty when its first entries can be read.

    With `needs_image`, the keys of a JSON object are captioned images only if one is named like an image or is nearby.
    """
    suffix = path.suffix.lower()
    start = sniff_json(path) if suffix == ".json" else ""
    is_object = start.startswith("{") and not is_json_lines(start)
    if is_object and _IMAGE_OBJECTS.search(start):  # COCO's and Karpathy's files, which may be large
        return f"{path}: {_NOT_RECORDS}"
    try:
        entries = list(islice(_read_file(path, options), 20))
    except DataError as error:
        return str(error)
    if not entries:
        return f"{path}: holds no rows"
    images = [entry.image for entry in entries if isinstance(entry, CaptionEntry)]
    skipped = [entry for entry in entries if isinstance(entry, SkippedEntry)]
    if suffix in JSON and skipped and not images:  # JSON of something else
        return f"{skipped[0].place}: {skipped[0].reason}"
    by_name = is_object and not _OBJECTS.search(start) and not any(map(is_image_name, images))
    if needs_image and by_name and not find_image_root(likely_image_roots(path, path.parent, images), images):
        return f"{path}: no image is named like a key of this JSON; if it holds captions, name this file"
    return ""


def read_table(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read a file, or a folder with one table per split.

    Raises `DataError` when a file cannot be read, lacks a column or holds no rows.
    """
    parts = files_by_split(path, options) if path.is_dir() else {}
    if not parts:
        yield from _read_file(path, options)
    for file, split in parts.items():
        for entry in _read_file(file, options):
            yield replace(entry, split=split) if isinstance(entry, CaptionEntry) and not entry.split else entry
    yield from note_downloads(path, parts)


def files_by_split(folder: Path, options: ReadOptions) -> dict[Path, str]:
    """The tables whose names differ in a split only (`train.csv` and `val2.csv`, `my.train.csv` and `my.val.csv`).

    Of several such groups, the one with captions of the most splits; of these, the one with the fewest other words.
    """
    groups: dict[tuple[str, ...], dict[Path, str]] = defaultdict(dict)
    for suffix in (".csv", ".tsv", ".jsonl", ".json"):
        for file in sorted(folder.glob(f"*{suffix}")):
            if not first_download(file) and (split := split_in(file.stem)):
                words = re.findall(r"([^\W\d_]+)(\d*)", file.stem.lower())
                others = [word + number for word, number in words if word not in {*SPLIT_NAMES, "captions"}]
                groups[suffix, *others][file] = split
    several = [groups[words] for words in sorted(groups, key=len) if len({*groups[words].values()}) > 1]
    if len(several) > 1:
        several.sort(key=lambda files: -_count_splits(files, options))
    return dict(sorted(several[0].items(), key=lambda item: SPLITS.index(item[1]))) if several else {}


def _count_splits(files: Mapping[Path, str], options: ReadOptions) -> int:
    """The number of splits that have a table of captions."""
    return len({split for file, split in files.items() if not _problem(file, options, needs_image=True)})


def _read_file(path: Path, options: ReadOptions) -> Iterator[Entry]:
    return read_entries(_read_rows(path, options), path)


def _read_rows(path: Path, options: ReadOptions) -> Iterator[CaptionRow | Note]:
    suffix = path.suffix.lower()
    start = sniff_json(path) if suffix in JSON else ""
    if start.startswith("[") or (suffix == ".json" and not is_json_lines(start)):
        rows = read_records(load_json(path, options.encoding), options, path)
        if rows is None:
            raise DataError(f"{path}: {_NOT_RECORDS}")
        yield from rows
        return
    with open_text(path, options.encoding) as file:
        if suffix in JSON:
            yield from read_json_lines(file, options, path)
        else:
            yield from read_delimited(file, options, path)
