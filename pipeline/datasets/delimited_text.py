"""Reads delimited text row by row, so that a stray quote costs at most one row.

The csv module and pandas continue to the next quote, however far away, and return everything between as one field.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.files import allow_long_fields

_MAX_LINES = 200
"""Lines over which one quoted field may extend."""


@dataclass(frozen=True, slots=True)
class DelimitedRow:
    """The fields of one row, which may extend over several lines where a field is quoted."""

    line: int
    fields: list[str]
    quoted: bool
    """Whether quotes were parsed; otherwise the fields are the line split at the delimiters."""


class DelimitedReader:
    """Iterates over the rows of numbered lines that are not blank. A line with unbalanced quotes is split at the
    delimiters.

    `width` is the number of fields of a row, once it is known; a row over several lines must have as many.
    `holds_rows` tells from the lines and the fields of such a row whether the lines are several rows.
    """

    def __init__(self, lines: Iterator[tuple[int, str]], delimiter: str) -> None:
        allow_long_fields()
        self.delimiter = delimiter
        self.width: int | None = None
        self.holds_rows: Callable[[Sequence[str], Sequence[str]], bool] = lambda lines, fields: False
        self.unclosed: list[int] = []
        """The lines with a quote that is not closed, as far as they were read."""
        self._lines = lines
        self._pending: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[DelimitedRow]:
        while following := self._pending.popleft() if self._pending else next(self._lines, None):
            number, text = following
            if '"' in text:
                fields = _parse(text, self.delimiter) or self._parse_multiline(number, text)
                yield DelimitedRow(number, fields or text.split(self.delimiter), bool(fields))
            elif text.strip():
                yield DelimitedRow(number, text.split(self.delimiter), False)

    def _parse_multiline(self, number: int, text: str) -> list[str]:
        """The fields of a row that starts with `text` and ends in a quoted field over several lines; else none."""
        if not _ends_inside_quotes(text, self.delimiter):
            return []
        self._pending.extend(islice(self._lines, max(_MAX_LINES - len(self._pending), 0)))
        for used, (_, line) in enumerate(self._pending, start=1):
            text += "\n" + line
            if '"' not in line:
                continue
            fields = _parse(text, self.delimiter)
            if fields and self.width in (None, len(fields)) and not self.holds_rows(text.split("\n"), fields):
                for _ in range(used):
                    self._pending.popleft()
                return fields
            if fields or not _ends_inside_quotes(text, self.delimiter):
                break  # a quote that neither closes the field nor is doubled: the first quote was a stray one
        self.unclosed.append(number)
        return []


def _parse(text: str, delimiter: str) -> list[str]:
    """The fields of one row by the rules of CSV; none for unbalanced quotes. Spaces may precede a quote."""
    try:
        rows = list(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error:
        return []
    return rows[0] if len(rows) == 1 else []


def _ends_inside_quotes(text: str, delimiter: str) -> bool:
    return bool(_parse(text + '"', delimiter))
