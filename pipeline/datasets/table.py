"""The format `table`: CSV, TSV, JSON or JSON lines with the columns image, caption and, optionally, split.

It is one file, or one per split. `delimited_table.py` and `json_records.py` read the files.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath

from pipeline.datasets.caption_rows import CaptionRow, read_entries
from pipeline.datasets.delimited_table import read_delimited
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import SPLIT_NAMES, SPLITS, CaptionEntry, Entry, Note, ReadOptions, SkippedEntry
from pipeline.datasets.image_index import ImageIndex
from pipeline.datasets.json_records import may_have_records, may_have_text_by_name, read_json_lines, read_records
from pipeline.datasets.text_files import load_json, open_text, read_start, sniff_json
from pipeline.errors import DataError

JSON_LINES = frozenset({".jsonl", ".ndjson"})
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx", ".gz")
"""Of files that are tried as tables in a folder; the last ones are named with what they are instead."""
COMMON_NAMES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "dataset.csv", "annotations.csv")
ImageNames = Callable[[], set[str]]
"""The images of a folder, without folders and suffixes; computed once, and only if needed."""
_NOT_RECORDS = "JSON, but not objects with image and caption in a known layout; see docs/datasets.md"


def detect_table(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file; in a folder, a file of a common name, one file per split, or any table with captions."""
    if path.is_file():
        yield _candidate(path, options)
        return
    names = cache(lambda: {_bare_name(name) for name in ImageIndex(path).names()})
    common = [path / name for name in COMMON_NAMES if (path / name).is_file()]
    for file in common:
        yield replace(_candidate(file, options), by_name=True)
    parts = files_by_split(path)
    per_split = len({split for file, split in parts.items() if not _problem(file, options)}) > 1
    known = [*common, *(parts if per_split else ())]
    files = [file for suffix in SUFFIXES for file in sorted(path.glob(f"*{suffix}")) if file not in known]
    others = [_candidate(file, options, names) for file in files]
    broken = [one.problem for one in others if one.problem and _split_in(one.captions.stem)]
    unread = f"; not read: {'; '.join(broken)}" if broken else ""
    if per_split:
        yield Candidate(path, f"{', '.join(file.name for file in parts)}, one table per split{unread}")
    for one in others:
        yield replace(one, evidence=one.evidence + unread) if _split_in(one.captions.stem) else one


def _candidate(path: Path, options: ReadOptions, names: ImageNames | None = None) -> Candidate:
    """A file as a table. Where it may be something else, one of its images must be among `names`, if given."""
    kinds = {".json": "JSON objects", **dict.fromkeys(JSON_LINES, "JSON lines")}
    kind = kinds.get(path.suffix.lower(), "a table")
    return Candidate(path, f"{path.name}, {kind}", problem=_problem(path, options, names) or "")


def _problem(path: Path, options: ReadOptions, names: ImageNames | None = None) -> str | None:
    """Why a file is not a table of captions; None when its first entries can be read."""
    suffix = path.suffix.lower()
    start = sniff_json(path) if suffix == ".json" else ""  # it may be large
    if suffix == ".json" and not may_have_records(start) and not may_have_text_by_name(start):
        return _not_json(path, start) or f"{path}: {_NOT_RECORDS}"
    try:
        entries = list(islice(_read_file(path, options), 20))
    except DataError as error:
        return str(error)
    if not entries:
        return f"{path}: holds no rows"
    skipped = [entry for entry in entries if isinstance(entry, SkippedEntry)]
    read = any(isinstance(entry, CaptionEntry) for entry in entries)
    if suffix in {".json", *JSON_LINES} and skipped and not read:  # JSON of something else
        return f"{path}, line {skipped[0].line}: {skipped[0].reason}"
    images = {_bare_name(entry.image) for entry in entries if isinstance(entry, CaptionEntry)}
    if names and may_have_text_by_name(start) and images.isdisjoint(names()):
        return (
            f"{path}: JSON with texts, but no image in {path.parent} is named like one of its keys; if they are "
            "captions, name this file"
        )
    return None


def _not_json(path: Path, start: str) -> str | None:
    """Why a file is not JSON; None when it is, or is an object, which may be large."""
    try:
        read_start(path)
        if not start.startswith("{"):
            load_json(path)
    except (DataError, OSError) as error:
        return str(error)
    return None


def _bare_name(name: str) -> str:
    """The name of an image without folder, suffix and case."""
    return PurePosixPath(name).stem.casefold()


def read_table(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read a file, or a folder with one table per split.

    Raises `DataError` when a file cannot be read, lacks a column or holds no rows.
    """
    parts = files_by_split(path) if path.is_dir() else {}
    if not parts:
        yield from _read_file(path, options)
    for file, split in parts.items():
        for entry in _read_file(file, options):
            yield replace(entry, split=split) if isinstance(entry, CaptionEntry) and not entry.split else entry


def files_by_split(folder: Path) -> dict[Path, str]:
    """The tables named after a split (`train.csv`, `captions_val2.csv`), where at least two splits have one."""
    for suffix in (".csv", ".tsv", ".jsonl"):
        named = {file: split for file in sorted(folder.glob(f"*{suffix}")) if (split := _split_in(file.stem))}
        if len(set(named.values())) > 1:
            return dict(sorted(named.items(), key=lambda item: SPLITS.index(item[1])))
    return {}


def _split_in(stem: str) -> str | None:
    words = [word for word in re.split(r"[\W\d_]+", stem.lower()) if word not in {"", "captions"}]
    return SPLIT_NAMES.get(words[0]) if len(words) == 1 else None


def _read_file(path: Path, options: ReadOptions) -> Iterator[Entry]:
    return read_entries(_read_rows(path, options), path)


def _read_rows(path: Path, options: ReadOptions) -> Iterator[CaptionRow | Note]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        rows = read_records(load_json(path, options.encoding), options, path)
        if rows is None:
            raise DataError(f"{path}: {_NOT_RECORDS}")
        yield from rows
        return
    with open_text(path, options.encoding) as file:
        if suffix in JSON_LINES:
            yield from read_json_lines(file, options, path)
        else:
            yield from read_delimited(file, options, path)
