"""The manifest: the table of the images that a Ray extraction encodes.

Columns: image (the id), path (a file, a member of an archive, or a URL) and optionally sha256. images.csv is one.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import DataError, ParamsError
from pipeline.features.ray.sources import check_schemes, is_url

COLUMNS = ("image", "path", "sha256")
_WANTED = "image, path and, if known, sha256"


def read_manifest(source: Path) -> pa.Table:
    """Read a .csv or .parquet manifest, with absolute paths and "" for an unknown sha256.

    Raises `DataError` naming the row that cannot be used, `ParamsError` for a URL that cannot be opened.
    """
    table = _read_table(source)
    for name in COLUMNS[:2]:
        if name not in table.column_names:
            found = ", ".join(table.column_names) or "none"
            raise DataError(f"{source}: has no column {name!r} (found: {found}); the columns are {_WANTED}")
    if "sha256" not in table.column_names:
        table = table.append_column("sha256", pa.array([""] * len(table)))
    columns = [pc.fill_null(table[name].cast(pa.large_string()), "") for name in COLUMNS]
    table = pa.table(columns, list(COLUMNS))
    if not len(table):
        raise DataError(f"{source}: lists no images")
    for name in COLUMNS[:2]:
        row = pc.index(table[name], "").as_py()
        if row >= 0:
            raise DataError(f"{source}: row {row + 1} has no {name}")
    counts = table["image"].value_counts()
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(f"{source}: {twice[0]} is listed more than once; each image needs its own id")
    paths = table["path"].to_pylist()
    check_schemes(paths)
    here = Path.cwd()  # workers run in other folders
    absolute = pa.array([path if is_url(path) else str(here / path) for path in paths], pa.large_string())
    return table.set_column(1, "path", absolute).set_column(2, "sha256", pc.utf8_lower(table["sha256"]))


def _read_table(source: Path) -> pa.Table:
    kind = source.suffix.lower()
    if kind in {".csv", ".parquet"} and not source.is_file():
        raise DataError(f"{source}: no such file; run `captioner prepare`, or name a table with --manifest")
    try:
        if kind == ".parquet":
            return pq.read_table(source, columns=[name for name in COLUMNS if name in pq.read_schema(source).names])
        if kind == ".csv":
            return pyarrow.csv.read_csv(
                source,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.large_string())),
            )
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not a readable {kind} table: {error}") from error
    raise ParamsError(f"{source}: a manifest is a .csv or .parquet file with the columns {_WANTED}")
