"""The format `flickr30k`: Kaggle's results.csv, delimited by `|`, or the original results_20130124.token.

Kaggle's file has a row without the delimiter between the comment's number and the comment; it is read all the same.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.detection import Candidate, files_named, find_file
from pipeline.datasets.entries import Entry, ReadOptions, make_entry, skip_entry
from pipeline.datasets.flickr8k import is_token_file, read_token_file
from pipeline.datasets.text_files import first_line, numbered_lines, open_text

NAMES = ("results.csv", "results_20130124.token", "captions.txt")
_HEADER = re.compile(r"\s*\"?image_name\"?\s*\|", re.IGNORECASE)
_NUMBER_AND_CAPTION = re.compile(r"\s*\d+\s+(.*)", re.DOTALL)


def detect_flickr30k(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file with Kaggle's header, or a token file of the name results*."""
    for file in files_named(path, NAMES):
        if _HEADER.match(first_line(file, options.encoding)):
            yield Candidate(file, f"{file.name}, columns delimited by |", by_name=True)
        elif "results" in file.name and is_token_file(file, options.encoding):
            yield Candidate(file, f"{file.name}, lines of name#number, tab, caption", by_name=True)


def read_flickr30k(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read the captions file `path`, or the one in the folder. Raises `DataError`."""
    path = find_file(path, NAMES)
    if is_token_file(path, options.encoding):
        yield from read_token_file(path, options.encoding)
        return
    with open_text(path, options.encoding) as file:
        for number, text in numbered_lines(file):
            if not text.strip() or (number == 1 and _HEADER.match(text)):
                continue
            name, *rest = text.split("|", 2)
            merged = _NUMBER_AND_CAPTION.fullmatch(rest[0]) if len(rest) == 1 else None
            if len(rest) == 2:
                yield make_entry(name, rest[1], None, path, number)
            elif merged:
                yield make_entry(name, merged[1], None, path, number)
            else:
                yield skip_entry(name.strip(), "expected image_name | comment_number | comment", path, number)
