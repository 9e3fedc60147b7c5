"""The format `folder`: images with a text file beside each, as diffusion trainers and WebDataset shards keep them, or
Hugging Face's imagefolder with metadata.csv or metadata.jsonl.

Every non-blank line of a .txt or .caption is a caption; a .json has them under `caption` or `captions`. Folders and
archives named train, val or test (`train-00012.tar` as well) are splits.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.archives import IMAGE_SUFFIXES, is_archive, read_image_bytes
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import AUTO, SPLIT_NAMES, CaptionEntry, Entry, ReadOptions, make_entry, skip_entry
from pipeline.datasets.image_index import TEXT_SUFFIXES, ImageIndex
from pipeline.datasets.table import read_table
from pipeline.datasets.text_files import parse_json
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
        stems[_suffix(name) in IMAGE_SUFFIXES].add(_stem(name))
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
        texts |= {_stem(name): name for name in files if _suffix(name) == suffix}
    images = [name for name in files if _suffix(name) in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"{path}: holds no images, neither as files nor in .zip or .tar archives")
    if not texts:
        raise DataError(f"{path}: no image has a text beside it, and there is no {' or '.join(METADATA)}")
    used = set()
    for name in images:
        text = texts.get(_stem(name))
        if text is None:
            yield skip_entry(name, "the image has no caption", files[name], 0)
        else:
            used.add(text)
            yield from _read_text(name, files[text], encoding)
    others = {_stem(name): name for name in index.passed_over()}
    for name in texts.values():
        if name in used or _suffix(name) == ".json":  # JSON files serve many other purposes
            continue
        other = others.get(_stem(name))
        reason = (
            f"{other} beside the text is in no image format that is read" if other else "no image is beside the text"
        )
        yield skip_entry(name, reason, files[name], 0)


def _read_text(image: str, path: str, encoding: str) -> Iterator[Entry]:
    try:
        content = read_image_bytes(path)
    except OSError as error:
        yield skip_entry(image, f"its text cannot be read: {error.strerror}", path, 0)
        return
    if _suffix(path) == ".json":
        yield from _read_json(image, content, path)
        return
    chosen = encoding if encoding != AUTO else "utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    text = content.decode(chosen, errors="surrogateescape" if chosen.startswith("utf-8") else "replace")
    if not text.strip():
        yield skip_entry(image, "the caption is empty", path, 1)
    for line, caption in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if caption.strip():
            yield make_entry(image, caption, split_of(image), path, line)


def _read_json(image: str, content: bytes, path: str) -> Iterator[Entry]:
    try:
        record = parse_json(content)
    except (ValueError, RecursionError) as error:
        yield skip_entry(image, f"not valid JSON: {str(error)[:100]}", path, 1)
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


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
