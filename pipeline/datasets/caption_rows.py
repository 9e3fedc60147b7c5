"""Rows of files with captions, in the layouts that datasets and captioners write.

A row is what `delimited_table.py`, `json_records.py`, `coco.py` and `karpathy.py` find in a file, with values of any
type. The readers of datasets make entries from it and skip what is wrong; `scoring_rows.py` refuses the file instead.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.columns import Columns
from pipeline.datasets.entries import Entry, Note, make_entry, skip_entry


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """An image and its captions in one place of a file."""

    line: int
    """The line or, in JSON, the element's number from 1."""
    image: Any = None
    captions: tuple[Any, ...] = ()
    split: Any = None
    """The dataset's own name of it."""
    names: tuple[Any, ...] = ()
    """All names of the image, its ids first."""
    ranked: bool = False
    """Whether the captions are alternatives with scores, the best one first, as `captioner predict` writes them."""
    references: Any = None
    """The references beside scored captions: joined in one text, or a list; None without a column or key of them."""
    problem: str = ""
    """Why the row cannot be used."""


def make_row(
    values: Sequence[Any], captions: Sequence[Any], columns: Columns, line: int, *, ranked: bool = False
) -> CaptionRow:
    """A row from the values of a table's row or of a JSON object, and the captions that were found in them."""
    error = None if columns.error is None else values[columns.error]
    return CaptionRow(
        line,
        values[columns.image],
        tuple(captions),
        split=None if columns.split is None else values[columns.split],
        names=tuple(values[index] for index in columns.names),
        ranked=ranked,
        references=None if columns.references is None else values[columns.references] or "",
        problem=f"an error instead of a caption: {str(error)[:200]!r}" if error and not any(captions) else "",
    )


def caption_texts(captions: Iterable[Any]) -> list[Any]:
    """The captions, of which each may be an object with the text under `caption` or, as in Karpathy's files, `raw`."""
    return [one.get("caption", one.get("raw")) if isinstance(one, dict) else one for one in captions]


def read_entries(rows: Iterable[CaptionRow | Note], file: Path) -> Iterator[Entry]:
    """An entry for each caption, or a skipped one for a row without any."""
    for row in rows:
        if isinstance(row, Note):
            yield row
        elif row.problem or not row.captions:
            image = row.image if isinstance(row.image, str) else ""
            yield skip_entry(image, row.problem or "the image has no caption", file, row.line)
        else:
            for caption in row.captions:
                yield make_entry(row.image, caption, row.split, file, row.line)
