"""The format `folder`: images with a text file beside each, as diffusion trainers and WebDataset shards keep them, or
Hugging Face's imagefolder with metadata.csv or metadata.jsonl.

Every non-blank line of a .txt or .caption is a caption; a .json has them under `caption` or `captions`. Folders and
archives named train, val or test (`train-00012.tar` as well) are splits.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.archives import IMAGE_SUFFIXES, is_archive, read_image_bytes
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import SPLIT_NAMES, CaptionEntry, Entry, Note, ReadOptions, make_entry, skip_entry
from pipeline.datasets.image_index import TEXT_SUFFIXES, ImageIndex, stem_of, suffix_of
from pipeline.datasets.table import read_table
from pipeline.datasets.text_files import decode, numbered_lines, parse_json
from pipeline.errors import DataError

METADATA = ("metadata.csv", "metadata.jsonl")
_SHARD = re.compile(r"([a-z]+)[\W_]*\d*\.(?:zip|tar)")
"""An archive, alone or one of several."""


def detect_folder(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """An archive, an imagefolder's metadata, or images with text files beside them."""
    if is_archive(path):
        yield Candidate(path, "an archive of images and texts")
        return
    metadata = find_metadata(path)
    if metadata:
        name = metadata[0].name if path.is_file() else metadata[0].relative_to(path)
        yield Candidate(path, f"{name} of a Hugging Face imagefolder", by_name=True)
    elif path.is_dir() and _has_texts(path):
        yield Candidate(path, "images with a text beside each")


def _has_texts(path: Path) -> bool:
    stems: dict[bool, set[str]] = {True: set(), False: set()}
    for name in ImageIndex(path).files():
        stems[suffix_of(name) in IMAGE_SUFFIXES].add(stem_of(name))
    return bool(stems[True] & stems[False])


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
    captioned = set()
    for table in tables:
        below = table.parent.relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for entry in read_table(table, options):
            if isinstance(entry, CaptionEntry):
                image = prefix + entry.image
                captioned.add(image)
                entry = replace(entry, image=image, split=entry.split or split_of(image))
            yield entry
    for name in ImageIndex(root).names():
        if name not in captioned:
            yield skip_entry(name, "the image has no caption", tables[0], 0)


def _read_texts(path: Path, encoding: str) -> Iterator[Entry]:
    index = ImageIndex(path)
    files = index.files()
    texts: dict[str, str] = {}
    for suffix in reversed(TEXT_SUFFIXES):  # the preferred one last, so that it replaces the others
        texts |= {stem_of(name): name for name in files if suffix_of(name) == suffix}
    images = [name for name in files if suffix_of(name) in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"{path}: holds no images, neither as files nor in .zip or .tar archives")
    if not texts:
        raise DataError(f"{path}: no image has a text beside it, and there is no {' or '.join(METADATA)}")
    used = set()
    for name in images:
        text = texts.get(stem_of(name))
        if text is None:
            yield skip_entry(name, "the image has no caption", files[name], 0)
        else:
            used.add(text)
            yield from _read_text(name, files[text], encoding)
    unread = _unread_texts(files, texts, images)
    if unread:
        shown = ", ".join(f"{count:,} {suffix}" for suffix, count in unread.items())
        yield Note(f"{path}: not read, because another text is beside the same image: {shown}")
    others = {stem_of(name): name for name in index.passed_over()}
    for name in texts.values():
        if name in used or suffix_of(name) == ".json":  # JSON files serve many other purposes
            continue
        other = others.get(stem_of(name))
        reason = (
            f"{other} beside the text is in no image format that is read" if other else "no image is beside the text"
        )
        yield skip_entry(name, reason, files[name], 0)


def _unread_texts(files: Iterable[str], texts: Mapping[str, str], images: Iterable[str]) -> Counter[str]:
    """The number of texts beside images that are not among `texts`, by suffix."""
    stems = set(map(stem_of, images))
    return Counter(
        suffix_of(name)
        for name in files
        if suffix_of(name) in TEXT_SUFFIXES and stem_of(name) in stems and texts[stem_of(name)] != name
    )


def _read_text(image: str, path: str, encoding: str) -> Iterator[Entry]:
    try:
        content = read_image_bytes(path)
    except OSError as error:
        yield skip_entry(image, f"its text cannot be read: {error.strerror}", path, 0)
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
    except (ValueError, RecursionError) as error:
        yield skip_entry(image, f"not valid JSON: {str(error)[:200]}", path, 1)
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
