"""The formats of datasets: their readers by name, and how `auto` tells them apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.archives import is_archive
from pipeline.datasets import coco, flickr8k, flickr30k, karpathy
from pipeline.datasets.coco import read_coco
from pipeline.datasets.entries import Entry
from pipeline.datasets.flickr8k import read_flickr8k
from pipeline.datasets.flickr30k import read_flickr30k
from pipeline.datasets.folder import metadata_files, read_folder
from pipeline.datasets.image_index import TEXTS, ImageIndex
from pipeline.datasets.jsonstream import elements
from pipeline.datasets.karpathy import read_karpathy
from pipeline.datasets.table import JSON_LINES, SUFFIXES, Columns, read_table, split_tables
from pipeline.datasets.text_files import AUTO, open_text
from pipeline.errors import DataError

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "dataset.csv", "annotations.csv")
SHOWN = 3
"""Tables in a folder whose mistake a message tells."""


@dataclass(frozen=True)
class DetectedFormat:
    """A dataset's format."""

    format: str
    captions: Path
    """The file or folder that its reader takes."""
    saw: str
    """What gave it away, in words."""


def read_captions(format: str, path: Path, *, encoding: str = AUTO, columns: Columns = Columns()) -> Iterator[Entry]:
    """Every caption of a dataset, and every row that cannot be one. Raises `DataError`."""
    with_columns = {"table": read_table, "folder": read_folder, "flickr8k": read_flickr8k}
    if format in with_columns:
        return with_columns[format](path, encoding=encoding, columns=columns)
    readers = {"flickr30k": read_flickr30k, "coco": read_coco, "karpathy": read_karpathy}
    return readers[format](path, encoding=encoding)


def detect_format(path: Path, *, encoding: str = AUTO, columns: Columns = Columns()) -> DetectedFormat:
    """The format of a dataset: a captions file, a folder with one in it, or an archive. Raises `DataError`."""
    if is_archive(path):
        return DetectedFormat("folder", path, "an archive with pictures and their texts")
    if not path.is_dir():
        return _recognise_file(path, encoding, columns)
    found = list(_recognise_folder(path, encoding, columns))
    if not found:
        refusals = [_refusal(file, encoding, columns) for file in _tables_in(path)[:SHOWN]]
        message = (
            f"{path}: no captions were recognised: neither a file that Flickr8k, Flickr30k, COCO or Karpathy's splits "
            "come with, nor a table with the columns image and caption, nor pictures with a .txt beside each; "
            "see docs/datasets.md, and name the file in params.data.captions"
        )
        raise DataError("\n  ".join([message, *filter(None, refusals)]))
    best, *others = found
    if others:
        unused = dict.fromkeys(one.saw if one.captions == path else one.captions.name for one in others)
        return DetectedFormat(best.format, best.captions, f"{best.saw}; not used: {', '.join(unused)}")
    return best


def _recognise_folder(path: Path, encoding: str, columns: Columns) -> Iterator[DetectedFormat]:
    """What the folder could be, surest first."""
    for file in sorted(path.glob(karpathy.PATTERN)):
        yield DetectedFormat("karpathy", file, f"{file.name}, pictures with sentences and Karpathy's split")
    for folder in (path, path / "annotations"):
        files = sorted(folder.glob(coco.PATTERN))
        if files:
            names = " and ".join(file.name for file in files)
            yield DetectedFormat("coco", files[0] if len(files) == 1 else folder, f"{names}, COCO's images and annotations")
    for name in dict.fromkeys((*flickr8k.NAMES, *flickr30k.NAMES, *TABLES)):
        if (path / name).is_file():
            yield _recognise_file(path / name, encoding, columns)
    tables = metadata_files(path)
    if tables:
        yield DetectedFormat("folder", path, f"{tables[0].relative_to(path)} of a Hugging Face imagefolder")
        return
    parts = split_tables(path)
    if len({split for file, split in parts.items() if not _refusal(file, encoding, columns)}) > 1:
        yield DetectedFormat("table", path, f"{', '.join(file.name for file in parts)}, a table for each split")
    else:
        parts = {}
    for file in _tables_in(path):
        if file not in parts:
            try:
                yield _recognise_file(file, encoding, columns)
            except DataError:
                continue  # some other table
    if _has_texts(path):
        yield DetectedFormat("folder", path, "pictures with a text beside each")


def _tables_in(folder: Path) -> list[Path]:
    """What may be a table, of whatever name."""
    known = {*TABLES, *flickr30k.NAMES}
    return [file for suffix in SUFFIXES for file in sorted(folder.glob(f"*{suffix}")) if file.name not in known]


def _has_texts(path: Path) -> bool:
    stems: set[str] = set()
    texts: set[str] = set()
    for name in ImageIndex(path).listing():
        stem, _, suffix = name.rpartition(".")
        (texts if f".{suffix.lower()}" in TEXTS else stems).add(stem)
    return bool(stems & texts)


def _recognise_file(path: Path, encoding: str, columns: Columns) -> DetectedFormat:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _recognise_json(path, encoding)
    with open_text(path, encoding) as file:
        first = file.readline()
    if flickr8k.TOKEN_LINE.match(first):
        format = "flickr30k" if "results" in path.name else "flickr8k"
        return DetectedFormat(format, path, f"{path.name}, lines of name#number, tab, caption")
    if flickr30k.HEADER.match(first):
        return DetectedFormat("flickr30k", path, f"{path.name}, columns parted by |")
    if path.name == "captions.txt":
        lists = any((path.parent / name).is_file() for name in flickr8k.LISTS.values())
        return DetectedFormat("flickr8k", path, f"{path.name}, a table" + " with Flickr8k's split lists beside it" * lists)
    if path.name in {"metadata.csv", "metadata.jsonl"}:
        return DetectedFormat("folder", path, f"{path.name} of a Hugging Face imagefolder")
    kind = "JSON lines" if suffix in JSON_LINES else "a table"
    refusal = _refusal(path, encoding, columns)
    if refusal:
        raise DataError(refusal)
    return DetectedFormat("table", path, f"{path.name}, {kind}")


def _refusal(path: Path, encoding: str, columns: Columns) -> str | None:
    """Why the file is no table with captions, by the table's reader; None when it gives a first entry."""
    try:
        first = next(read_table(path, encoding=encoding, columns=columns), None)
    except DataError as error:
        return str(error)
    return None if first else f"{path}: holds no rows"


def _recognise_json(path: Path, encoding: str) -> DetectedFormat:
    for key, number, element in elements(path, {"", "images", "annotations"}, encoding):
        if number == 0:
            continue
        if key == "":
            return DetectedFormat("table", path, f"{path.name}, a list of objects")
        if key == "annotations" or (isinstance(element, dict) and "file_name" in element):
            return DetectedFormat("coco", path, f"{path.name}, COCO's images and annotations")
        if isinstance(element, dict) and {"sentences", "filename"} & element.keys():
            return DetectedFormat("karpathy", path, f"{path.name}, pictures with sentences and Karpathy's split")
        break
    raise DataError(
        f"{path}: JSON, but neither COCO's nor Karpathy's layout nor a list of objects; see docs/datasets.md"
    )
