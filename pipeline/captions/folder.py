"""Reader of `data.format: folder`: pictures with a .txt (or .caption) beside each, as diffusion trainers keep them and
WebDataset's shards do, or the Hugging Face imagefolder with metadata.csv or metadata.jsonl.

Every line of a text with something in it is a caption. Folders (or archives) named train, val and test are splits.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.archives import PICTURES, read_picture
from pipeline.captions.pictures import TEXTS, PictureFolder
from pipeline.captions.rows import SPLIT_NAMES, Entry, Row, make_row, skip
from pipeline.captions.table import Columns, read_table
from pipeline.captions.text import AUTO
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
    for name in PictureFolder(root).names():
        if name not in named:
            yield skip(name, "the picture has no caption", tables[0], 0)


def _read_texts(path: Path, encoding: str) -> Iterator[Entry]:
    listing = PictureFolder(path).listing()
    texts = {_stem(name): name for name in listing if _suffix(name) in TEXTS}
    pictures = [name for name in listing if _suffix(name) in PICTURES]
    if not pictures:
        raise DataError(f"{path}: holds no pictures, neither loose nor in .zip or .tar archives")
    if not texts:
        raise DataError(f"{path}: no picture has a .txt beside it, and there is no {' or '.join(METADATA)}")
    used = set()
    for name in pictures:
        text = texts.get(_stem(name))
        if text is None:
            yield skip(name, "the picture has no caption", listing[name], 0)
            continue
        used.add(text)
        yield from _captions(name, listing[text], encoding)
    for name in texts.values():
        if name not in used:
            yield skip(name, "no picture stands beside the text", listing[name], 0)


def _captions(image: str, place: str, encoding: str) -> Iterator[Entry]:
    try:
        content = read_picture(place)
    except OSError as error:
        yield skip(image, f"its text cannot be read: {error.strerror}", place, 0)
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


def split_of(image: str) -> str | None:
    """The split that a folder above the picture is named after."""
    for part in PurePosixPath(image).parts[:-1]:
        name = SPLIT_NAMES.get(PurePosixPath(part).stem.lower() if _suffix(part) in {".zip", ".tar"} else part.lower())
        if name:
            return name
    return None


def _encoding(content: bytes) -> str:
    return "utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
