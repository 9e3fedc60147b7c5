"""The list of pictures that a cluster is to encode: a CSV or Parquet table, checked and numbered.

The columns are image (the id), path (a file, a place in an archive or a URL) and, where it is known, sha256; images.csv
of `prepare` is one. Relative paths start at the working folder. The numbered copy, which every machine reads, has an
int64 `id`: Ray's checkpoints compare ids as numpy numbers.
"""

import csv
import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError, ParamsError
from pipeline.features.ray.sources import check_schemes, is_url
from pipeline.files import replacing

COLUMNS = ("image", "path", "sha256")
_ROWS = 1 << 16

Entry = tuple[str, str, str]
"""image, path, sha256 or nothing."""


@dataclass(frozen=True)
class Manifest:
    """What was numbered."""

    pictures: int
    digest: str
    """Of the ids and contents in their order (of the paths, where the contents are not known)."""


def number_pictures(source: Path, out: Path) -> Manifest:
    """Write the numbered copy of the manifest `source` to `out`, row by row: it may be larger than the memory.

    Raises `DataError` with the row that cannot be used, `ParamsError` for addresses that cannot be opened here.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.int64()), *((name, pa.large_string()) for name in COLUMNS)])
    digest = hashlib.sha256()
    hashes = array("q")
    schemes: dict[str, str] = {}
    with replacing(out) as beside, pq.ParquetWriter(beside, schema) as writer:
        entries = read_manifest(source)
        while block := list(islice(entries, _ROWS)):
            for image, path, sha256 in block:
                digest.update(f"{image}\0{sha256 or path}\n".encode())
                hashes.append(hash(image))
                if is_url(path):
                    schemes.setdefault(path.partition("://")[0], path)
            images, paths, digests = zip(*block, strict=True)
            start = len(hashes) - len(block)
            ids = np.arange(start, len(hashes), dtype=np.int64)
            full = [path if is_url(path) else str(Path.cwd() / path) for path in paths]
            writer.write_table(pa.table([ids, images, full, digests], schema=schema))
        check_schemes(schemes.values())
        _refuse_twins(source, np.frombuffer(hashes, np.int64))
        if not hashes:
            raise DataError(f"{source}: lists no pictures")
    return Manifest(len(hashes), digest.hexdigest())


def read_manifest(source: Path) -> Iterator[Entry]:
    """The rows of a manifest. Raises `DataError`."""
    kind = source.suffix.lower()
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    if kind not in readers:
        raise ParamsError(f"{source}: a manifest is a .csv or .parquet file with the columns {_wanted()}")
    try:
        for number, (image, path, sha256) in enumerate(readers[kind](source), 1):
            if not image or not path:
                raise DataError(f"{source}: row {number} has no {'path' if image else 'image'}")
            yield image, path, sha256.lower()
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error


def _csv_rows(source: Path) -> Iterator[Entry]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            places = _places(source, next(reader, []))
            for row in reader:
                if row:
                    image, path, sha256 = (row[place] if place is not None else "" for place in places)
                    yield image, path, sha256
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{source}: line {reader.line_num}: not CSV in UTF-8: {error}") from error
        except IndexError as error:
            raise DataError(f"{source}: line {reader.line_num}: fewer columns than the first line") from error


def _parquet_rows(source: Path) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as file:
            names = [name for name in COLUMNS if name in file.schema_arrow.names]
            _places(source, names)
            for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                values: list[list[Any]] = [batch.column(name).to_pylist() for name in names]
                values += [[""] * batch.num_rows] * (len(COLUMNS) - len(names))
                for image, path, sha256 in zip(*values, strict=True):
                    yield str(image or ""), str(path or ""), str(sha256 or "")
    except pa.ArrowException as error:
        raise DataError(f"{source}: not a readable Parquet file: {error}") from error


def _places(source: Path, names: list[str]) -> list[int | None]:
    for name in COLUMNS[:2]:
        if name not in names:
            raise DataError(
                f"{source}: has no column {name!r} (found: {', '.join(names) or 'none'}); wanted: {_wanted()}"
            )
    return [names.index(name) if name in names else None for name in COLUMNS]


def _refuse_twins(source: Path, hashes: "np.ndarray[Any, Any]") -> None:
    """Raises `DataError` for an id that stands there twice; only hashes of all ids are in memory."""
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    seen: set[str] = set()
    for image in _images(source) if suspects else ():
        if hash(image) in suspects:
            if image in seen:
                raise DataError(f"{source}: {image} is listed twice; each picture needs an id of its own")
            seen.add(image)


def _images(source: Path) -> Iterable[str]:
    return (image for image, _, _ in read_manifest(source))


def _wanted() -> str:
    return "image, path and, where it is known, sha256"
