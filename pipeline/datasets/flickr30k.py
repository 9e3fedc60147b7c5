"""Reader of `data.format: flickr30k`: Kaggle's results.csv, parted by `|`, or the original results_20130124.token.

Kaggle's file has a row that lacks the bar between the comment's number and the comment; it is read all the same.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.entries import Entry, make_row, skip
from pipeline.datasets.flickr8k import file_in, is_token_file, read_tokens
from pipeline.datasets.text_files import AUTO, lines, open_text

NAMES = ("results.csv", "results_20130124.token", "captions.txt")
HEADER = re.compile(r"\s*\"?image_name\"?\s*\|", re.IGNORECASE)
_NUMBER_AND_CAPTION = re.compile(r"\s*\d+\s+(.*)", re.DOTALL)


def read_flickr30k(path: Path, *, encoding: str = AUTO) -> Iterator[Entry]:
    """`path` is the captions file or the folder that holds it. Raises `DataError`."""
    path = file_in(path, NAMES)
    if is_token_file(path, encoding):
        yield from read_tokens(path, encoding)
        return
    with open_text(path, encoding) as file:
        for line, text in lines(file):
            if not text.strip() or (line == 1 and HEADER.match(text)):
                continue
            name, *rest = text.split("|", 2)
            merged = _NUMBER_AND_CAPTION.fullmatch(rest[0]) if len(rest) == 1 else None
            if len(rest) == 2:
                yield make_row(name, rest[1], None, path, line)
            elif merged:
                yield make_row(name, merged[1], None, path, line)
            else:
                yield skip(name.strip(), "expected image_name | comment_number | comment", path, line)
