"""The manifest: the table of the images that a Ray extraction encodes.

Columns: image (the id), path (a file, a member of an archive, or a URL) and optionally sha256 and split. images.csv is
one.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import DataError, ParamsError
from pipeline.features.ray.sources import check_schemes, is_url

COLUMNS = ("image", "path", "sha256", "split")
_WANTED = "image, path and, if known, sha256"


class ListedImage(NamedTuple):
    """A row of a manifest."""

    image: str
    path: str
    """Absolute path, or a URL."""
    sha256: str
    """"" if unknown, as the split."""
    split: str


def read_manifest(source: Path) -> list[ListedImage]:
    """Read a .csv or .parquet manifest.

    Raises `DataError` naming the row that cannot be used, `ParamsError` for a URL that cannot be opened.
    """
    table = _read_table(source)
    found = table.column_names
    for name in COLUMNS[:2]:
        if name not in found:
            raise DataError(f"{source}: has no column {name!r} (found: {', '.join(found)}); the columns are {_WANTED}")
    empty = [None] * len(table)
    columns = [table[name].cast(pa.string()).to_pylist() if name in found else empty for name in COLUMNS]
    here = Path.cwd()  # workers run in other folders
    images = []
    for row, (image, path, sha256, split) in enumerate(zip(*columns, strict=True), 1):
        if not image or not path:
            raise DataError(f"{source}: row {row} has no {'path' if image else 'image'}")
        absolute = path if is_url(path) else str(here / path)
        images.append(ListedImage(image, absolute, (sha256 or "").lower(), split or ""))
    if not images:
        raise DataError(f"{source}: lists no images")
    [(image, times)] = Counter(one.image for one in images).most_common(1)
    if times > 1:
        raise DataError(f"{source}: {image} is listed more than once; each image needs its own id")
    check_schemes(one.path for one in images)
    return images


def _read_table(source: Path) -> pa.Table:
    kind = source.suffix.lower()
    if kind not in {".csv", ".parquet"}:
        raise ParamsError(f"{source}: a manifest is a .csv or .parquet file with the columns {_WANTED}")
    try:
        if kind == ".parquet":
            return pq.read_table(source)
        return pyarrow.csv.read_csv(
            source,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string())),
        )
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file; run `captioner prepare`, or name a table with --manifest") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not a readable {kind} table: {error}") from error


def digest_of(images: Iterable[ListedImage]) -> str:
    """Return the hex sha256 of the ids and of what identifies each image: its sha256 or, if unknown, its path."""
    digest = hashlib.sha256()
    for one in images:
        digest.update(f"{one.image}\0{one.sha256 or one.path}\0".encode())
    return digest.hexdigest()
