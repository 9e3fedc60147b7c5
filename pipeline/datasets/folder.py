"""Reader of `data.format: folder`: pictures with a text beside each, as diffusion trainers keep them and WebDataset's
shards do, or the Hugging Face imagefolder with metadata.csv or metadata.jsonl.

Every line of a .txt or .caption with something in it is a caption; a .json has them under `caption` or `captions`.
Folders and archives that are named train, val or test (`train-00012.tar`, too) are splits.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.archives import IMAGE_SUFFIXES, read_image_bytes
from pipeline.datasets.entries import SPLIT_NAMES, Entry, Row, make_row, skip
from pipeline.datasets.image_index import TEXTS, ImageIndex
from pipeline.datasets.table import Columns, read_table
from pipeline.datasets.text_files import AUTO
from pipeline.errors import DataError

METADATA = ("metadata.csv", "metadata.jsonl")


def read_folder(path: Path, *, encoding: str = AUTO, columns: Columns = Columns()) -> Iterator[Entry]:
    """`path` is the folder, an archive, or a metadata file. Raises `DataError`."""
    tables = metadata_files(path)
    if tables:
        yield from _read_tables(path.parent if path.is_file() else path, tables, encoding, columns)
    else:
        yield from _read_texts(path, encoding)


def metadata_files(path: Path) -> list[Path]:
    """The imagefolder's tables: in the folder, or in the folders of its splits."""
    if path.is_file():
        return [path] if path.name in METADATA else []
    return sorted(
        file for name in METADATA for pattern in (name, f"*/{name}", f"*/*/{name}") for file in path.glob(pattern)
    )


def _read_tables(root: Path, tables: list[Path], encoding: str, columns: Columns) -> Iterator[Entry]:
    named = set()
    for table in tables:
        below = table.parent.relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for entry in read_table(table, encoding=encoding, columns=columns):
            if isinstance(entry, Row):
                image = prefix + entry.image
                named.add(image)
                yield replace(entry, image=image, split=entry.split or split_of(image))
            else:
                yield entry
    for name in ImageIndex(root).names():
        if name not in named:
            yield skip(name, "the picture has no caption", tables[0], 0)


def _read_texts(path: Path, encoding: str) -> Iterator[Entry]:
    listing = ImageIndex(path).listing()
    texts: dict[str, str] = {}
    for suffix in reversed(TEXTS):  # the likeliest last, so that it stands
        texts |= {_stem(name): name for name in listing if _suffix(name) == suffix}
    pictures = [name for name in listing if _suffix(name) in IMAGE_SUFFIXES]
    if not pictures:
        raise DataError(f"{path}: holds no pictures, neither loose nor in .zip or .tar archives")
    if not texts:
        raise DataError(f"{path}: no picture has a text beside it, and there is no {' or '.join(METADATA)}")
    used = set()
    for name in pictures:
        text = texts.get(_stem(name))
        if text is None:
            yield skip(name, "the picture has no caption", listing[name], 0)
            continue
        used.add(text)
        yield from _captions(name, listing[text], encoding)
    for name in texts.values():
        if name not in used and _suffix(name) != ".json":  # of which there are many for other ends
            yield skip(name, "no picture stands beside the text", listing[name], 0)


def _captions(image: str, place: str, encoding: str) -> Iterator[Entry]:
    try:
        content = read_image_bytes(place)
    except OSError as error:
        yield skip(image, f"its text cannot be read: {error.strerror}", place, 0)
        return
    if _suffix(place) == ".json":
        yield from _json_captions(image, content, place)
        return
    chosen = _encoding(content) if encoding == AUTO else encoding
    text = content.decode(chosen, errors="surrogateescape" if chosen.startswith("utf-8") else "replace")
    found = False
    for line, caption in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if caption.strip():
            found = True
            yield make_row(image, caption, split_of(image), place, line)
    if not found:
        yield skip(image, "the caption is empty", place, 1)


def _json_captions(image: str, content: bytes, place: str) -> Iterator[Entry]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        yield skip(image, f"not valid JSON: {str(error)[:100]}", place, 1)
        return
    found = record.get("caption", record.get("captions")) if isinstance(record, dict) else None
    if not found:
        yield skip(image, "the picture has no caption", place, 1)
        return
    for caption in found if isinstance(found, list) else [found]:
        yield make_row(image, caption, split_of(image), place, 1)


def split_of(image: str) -> str | None:
    """The split that a folder or archive above the picture is named after."""
    for part in PurePosixPath(image).parts[:-1]:
        archive = _SHARD.fullmatch(part.lower())
        name = SPLIT_NAMES.get(archive[1] if archive else part.lower())
        if name:
            return name
    return None


_SHARD = re.compile(r"([a-z]+)[\W_]*\d*\.(?:zip|tar)")
"""An archive, alone or one of many."""


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
