"""The format `folder`: images with a text file beside each, as diffusion trainers and WebDataset shards keep them, or
Hugging Face's imagefolder with metadata.csv or metadata.jsonl.

Every non-blank line of a .txt or .caption is a caption; a .json has them under `caption` or `captions`. Folders and
archives named train, val or test (`train-00012.tar` as well) are splits.
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.archives import IMAGE_SUFFIXES, SEPARATOR, is_archive, read_image_bytes
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import (
    SPLIT_NAMES,
    CaptionEntry,
    Entry,
    Note,
    ReadOptions,
    check_encodable,
    make_entry,
    skip_entry,
)
from pipeline.datasets.image_index import TEXT_SUFFIXES, ImageIndex, stem_of, suffix_of
from pipeline.datasets.table import METADATA, read_table
from pipeline.datasets.text_files import decode, numbered_lines, parse_json
from pipeline.errors import DataError
from pipeline.file_signatures import other_content
from pipeline.wording import counted

_NO_TEXTS = (
    f"no image has a text beside it, and there is no {' or '.join(METADATA)}; unpack an archive that holds a file of "
    "captions"
)
_SHARD = re.compile(r"(?:.*?[\W_](?=[a-z]+[\W_]*\d))??([a-z]+)[\W_]*\d*(?:-of-\d+)?\.(?:zip|tar)")
"""An archive, alone or one of several, such as `train-00012.tar` or `cc3m-train-00000-of-00002.tar`. Words
before the split need a number behind it: `crash-test.zip` is none."""


def detect_folder(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """An archive, an imagefolder's metadata, or images with text files beside them."""
    if is_archive(path):
        yield Candidate(path, "an archive of images and texts")
        return
    metadata = find_metadata(path)
    if metadata:
        name = metadata[0].name if path.is_file() else metadata[0].relative_to(path)
        yield Candidate(path, f"{name} of a Hugging Face imagefolder", by_name=True)
    elif path.is_dir():
        files = ImageIndex(path).files()
        if _has_texts(files):
            yield Candidate(path, "images with a text beside each")
        elif any(SEPARATOR in place for place in files.values()):
            yield Candidate(path, "", problem=f"{path}: {_NO_TEXTS}")


def _has_texts(files: Collection[str]) -> bool:
    stems = {stem_of(name) for name in files if suffix_of(name) in IMAGE_SUFFIXES}
    return any(_image_stem(name, stems) in stems for name in files if suffix_of(name) in TEXT_SUFFIXES)


def _image_stem(text: str, stems: Collection[str]) -> str:
    """The name without suffix of the image that a text belongs to: `a` for `a.txt` and `a.jpg.txt`."""
    stem = stem_of(text)
    named_after_file = suffix_of(stem) in IMAGE_SUFFIXES and suffix_of(text) != ".json"  # of a photo's metadata
    return stem_of(stem) if named_after_file and stem not in stems else stem


def read_folder(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read a folder, an archive or a metadata file. Raises `DataError`."""
    metadata = find_metadata(path)
    if metadata:
        yield from _read_metadata(path.parent if path.is_file() else path, metadata, options)
    else:
        yield from _read_texts(path, options.encoding)


def find_metadata(path: Path) -> list[Path]:
    """The metadata files of an imagefolder: at its top, or in the folders of its splits."""
    if path.is_file():
        return [path] if path.name in METADATA else []
    return sorted(
        file for name in METADATA for pattern in (name, f"*/{name}", f"*/*/{name}") for file in path.glob(pattern)
    )


def _read_metadata(root: Path, tables: list[Path], options: ReadOptions) -> Iterator[Entry]:
    index = ImageIndex(root)
    path_of: dict[str, str | None] = {}
    """By the names in the tables, which may differ in case or accents from those on the disk."""
    first_in: dict[Path, Path] = {}
    for table in tables:
        first = first_in.setdefault(table.parent, table)
        if first != table:
            yield Note(f"{table}: not read, because {first.name} is beside it")
            continue
        below = table.parent.relative_to(root).as_posix()
        if problem := _unwritable(below):
            yield skip_entry(below, problem, table, 0)
            continue
        prefix = "" if below == "." else f"{below}/"
        for entry in read_table(table, options):
            if not isinstance(entry, Note) and entry.image:
                image = prefix + entry.image
                if image not in path_of:
                    path_of[image] = index.find(image)
                entry = replace(entry, image=image)
                if isinstance(entry, CaptionEntry):
                    entry = replace(entry, split=entry.split or split_of(image))
            yield entry
    listed = set(path_of.values())
    for name, path in index.files().items():
        if suffix_of(name) in IMAGE_SUFFIXES and path not in listed:
            yield skip_entry(name, _unwritable(name) or "the image has no caption", tables[0], 0)


def _unwritable(name: str) -> str | None:
    """Why a file's name cannot be that of an image; None when it can."""
    return "its name is not UTF-8; rename the file or folder" if check_encodable(name) else None


def _read_texts(path: Path, encoding: str) -> Iterator[Entry]:
    index = ImageIndex(path)
    files = index.files()
    images = [name for name in files if suffix_of(name) in IMAGE_SUFFIXES]
    stems = set(map(stem_of, images))
    texts: dict[str, str] = {}
    unread = Counter[str]()
    for suffix in TEXT_SUFFIXES:  # the preferred one first
        for name in files:
            stem = _image_stem(name, stems)
            if suffix_of(name) == suffix and texts.setdefault(stem, name) != name and stem in stems:
                unread[suffix] += 1
    if not images:
        raise DataError(f"{path}: holds no images, neither as files nor in .zip or .tar archives")
    if stems.isdisjoint(texts):
        raise DataError(f"{path}: {_NO_TEXTS}")
    places = {SEPARATOR in files[name]: name for name in images}
    if len(places) > 1:
        shown = f"as files, such as {places[False]}, and from archives, such as {places[True]}"
        yield Note(f"{path}: the images are read {shown}")
    if copies := len(images) - len(stems):
        shared = counted(copies, "image shares", "images share")
        remedy = "they may be in different splits: keep one file of each"
        yield Note(f"{path}: {shared} a text with another image of the same name; {remedy}")
    used: set[str | None] = set()
    for name in images:
        text = texts.get(stem_of(name))
        used.add(text)
        if problem := _unwritable(name) or ("" if text else "the image has no caption"):
            yield skip_entry(name, problem, files[name], 0)
        else:
            yield from _read_text(name, files[text or ""], encoding)
    for archive, reason in index.damaged_archives.items():
        yield Note(f"{archive}: not read: {reason}; repair it, if it holds images")
    if unread:
        shown = ", ".join(f"{count:,} {suffix}" for suffix, count in unread.items())
        yield Note(f"{path}: not read, because another text is beside the same image: {shown}")
    others = {stem_of(name): name for name in index.ignored_files()}
    for name in texts.values():
        if name in used or suffix_of(name) == ".json":  # JSON files serve many other purposes
            continue
        other = others.get(stem_of(name))
        reason = f"{other} beside the text is not a file of a known format" if other else "no image is beside the text"
        yield skip_entry(name, reason, files[name], 0)


def _read_text(image: str, path: str, encoding: str) -> Iterator[Entry]:
    try:
        content = read_image_bytes(path)
    except OSError as error:
        yield skip_entry(image, f"its text cannot be read: {error.strerror}", path, 0)
        return
    if words := other_content(content):
        yield skip_entry(image, f"its text is {words}", path, 1)
        return
    try:
        text = decode(content, encoding)
    except UnicodeError as error:
        yield skip_entry(image, f"its text cannot be decoded: {error}", path, 1)
        return
    if suffix_of(path) == ".json":
        yield from _read_json(image, text, path)
        return
    if not text.strip():
        yield skip_entry(image, "the caption is empty", path, 1)
    for line, caption in numbered_lines(io.StringIO(text, newline="")):
        if caption.strip():
            yield make_entry(image, caption, split_of(image), path, line)


def _read_json(image: str, text: str, path: str) -> Iterator[Entry]:
    try:
        record = parse_json(text)
    except ValueError as error:
        yield skip_entry(image, str(error), path, 1)
        return
    captions = record.get("caption", record.get("captions")) if isinstance(record, dict) else None
    if not captions:
        yield skip_entry(image, "the image has no caption", path, 1)
        return
    for caption in captions if isinstance(captions, list) else [captions]:
        yield make_entry(image, caption, split_of(image), path, 1)


def split_of(image: str) -> str | None:
    """The split after which a folder or archive above the image is named."""
    for part in PurePosixPath(image.lower()).parts[:-1]:
        shard = _SHARD.fullmatch(part)
        split = SPLIT_NAMES.get(shard[1] if shard else part)
        if split:
            return split
    return None
