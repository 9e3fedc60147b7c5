"""Reader of `data.format: table`: a CSV file with a header and the columns image, caption and (optionally) split.

The csv module with its strict quoting, not pandas: that one joins rows after a stray quote, reads the caption "None" as
missing and shifts columns without a word.
"""

import csv
import sys
from pathlib import Path

from pipeline.captions.rows import SPLITS, Captions
from pipeline.errors import DataError


def read_table(path: Path) -> Captions:
    """Raises `DataError` when the file cannot be read or lacks a column; single bad rows are in `skipped`."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    captions = Captions()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in ("image", "caption") if name not in header]
            if missing:
                raise DataError(f"{path}, line 1: no column {' and '.join(missing)}; the header is {header}")
            for values in reader:
                _add(
                    captions, dict(zip(header, values, strict=False)), len(values) - len(header), path, reader.line_num
                )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check params.data.captions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not valid CSV: {error}") from error
    return captions


def _add(captions: Captions, row: dict[str, str], surplus: int, path: Path, line: int) -> None:
    if not row:
        return  # a blank line
    split = row.get("split", "").strip().lower() or None
    if surplus:
        wrong = (
            f"{surplus} fields too many; quote captions with commas" if surplus > 0 else f"{-surplus} fields too few"
        )
        captions.skip(row.get("image", ""), wrong, path, line)
    elif split not in (None, *SPLITS):
        captions.skip(row["image"], f"split must be one of {', '.join(SPLITS)}, got {split!r}", path, line)
    else:
        captions.add(row["image"].strip(), row["caption"], split, path, line)
