"""Delimited text as records, line by line: a stray quote costs one row at most, and no row vanishes into another.

`csv` and pandas read on to the next quote, however far, and give what lies between as one caption.
"""

import csv
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

from pipeline.captions.text import lines

_FURTHER = 200
"""Lines that a quoted field may go on for."""


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a line, or of several where a quoted field goes on."""

    line: int
    fields: list[str]
    quoted: bool
    """Whether quotes had a meaning; else the fields are the line cut at the delimiters."""


def records(file: TextIO, delimiter: str) -> Iterator[Record]:
    """The lines with something in them. A line whose quotes do not add up is cut at the delimiters as it stands."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    source = lines(file)
    waiting: deque[tuple[int, str]] = deque()
    while following := waiting.popleft() if waiting else next(source, None):
        number, text = following
        if '"' not in text:
            if text.strip():
                yield Record(number, text.split(delimiter), False)
            continue
        fields = _strict([text], delimiter)
        if fields == [] and _opens(text, delimiter):
            waiting.extend(islice(source, max(_FURTHER - len(waiting), 0)))
            fields, used = _continued(text, waiting, delimiter)
            for _ in range(used):
                waiting.popleft()
        yield Record(number, fields, True) if fields else Record(number, text.split(delimiter), False)


def _strict(text: list[str], delimiter: str) -> list[str]:
    """The fields of one record by the rules; empty when its quotes do not add up."""
    try:
        found = list(csv.reader(["\n".join(text)], delimiter=delimiter, strict=True))
    except csv.Error:
        return []
    return found[0] if len(found) == 1 else []


def _opens(text: str, delimiter: str) -> bool:
    """Whether the last field is quoted and not closed on this line."""
    return bool(_strict([text + '"'], delimiter))


def _continued(text: str, further: deque[tuple[int, str]], delimiter: str) -> tuple[list[str], int]:
    """The record that begins with `text` and the number of lines it takes beside the first; none when it never ends."""
    parts = [text]
    for used, (_, line) in enumerate(further, start=1):
        parts.append(line)
        if '"' in line:
            fields = _strict(parts, delimiter)
            if fields:
                return fields, used
            if not _opens("\n".join(parts), delimiter):
                break  # a quote that neither closes the field nor is doubled: the first one was a stray
    return [], 0
