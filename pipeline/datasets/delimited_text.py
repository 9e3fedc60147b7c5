"""Delimited text as records, line by line: a stray quote costs one row at most, and no row vanishes into another.

`csv` and pandas read on to the next quote, however far, and give what lies between as one caption.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

from pipeline.datasets.text_files import lines
from pipeline.files import allow_long_fields

_FURTHER = 200
"""Lines that a quoted field may go on for."""


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a line, or of several where a quoted field goes on."""

    line: int
    fields: list[str]
    quoted: bool
    """Whether quotes had a meaning; else the fields are the line cut at the delimiters."""


class Records:
    """The lines with something in them, in order. A line whose quotes do not add up is cut at the delimiters.

    `width`: how many fields a record has, once that is known; one that goes on over lines must have as many.
    """

    def __init__(self, file: TextIO, delimiter: str) -> None:
        allow_long_fields()
        self.delimiter = delimiter
        self.width: int | None = None
        self._source = lines(file)
        self._waiting: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[Record]:
        while following := self._waiting.popleft() if self._waiting else next(self._source, None):
            number, text = following
            if '"' in text:
                fields = _strict(text, self.delimiter) or self._continued(text)
                yield Record(number, fields, True) if fields else Record(number, text.split(self.delimiter), False)
            elif text.strip():
                yield Record(number, text.split(self.delimiter), False)

    def _continued(self, text: str) -> list[str]:
        """The fields of the record that begins with `text`, whose last field is quoted and goes on; else none."""
        if not _opens(text, self.delimiter):
            return []
        self._waiting.extend(islice(self._source, max(_FURTHER - len(self._waiting), 0)))
        for used, (_, line) in enumerate(self._waiting, start=1):
            text += "\n" + line
            if '"' not in line:
                continue
            fields = _strict(text, self.delimiter)
            if fields and self.width in (None, len(fields)):
                for _ in range(used):
                    self._waiting.popleft()
                return fields
            if fields or not _opens(text, self.delimiter):
                break  # a quote that neither closes the field nor is doubled: the first one was a stray
        return []


def _strict(text: str, delimiter: str) -> list[str]:
    """The fields of one record by the rules; none when its quotes do not add up. Blanks may stand before a quote."""
    try:
        found = list(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error:
        return []
    return found[0] if len(found) == 1 else []


def _opens(text: str, delimiter: str) -> bool:
    """Whether the last field is quoted and not closed."""
    return bool(_strict(text + '"', delimiter))
