"""The formats `flickr8k` and `flickr30k`: token files, lines of `name.jpg#0<TAB>caption`, and Kaggle's tables.

flickr8k is Kaggle's captions.txt (a CSV with quotes) or the original Flickr8k.token.txt. The splits come from the lists
Flickr_8k.trainImages.txt, .devImages.txt and .testImages.txt beside the captions. With lists, an image in none of them
has no split and is skipped, as in the original data.

flickr30k is Kaggle's results.csv, delimited by `|`, or the original results_20130124.token. Kaggle's file has a row
without the delimiter between the comment's number and the comment; it is read all the same.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.datasets.detection import Candidate, files_named, find_file
from pipeline.datasets.entries import AUTO, CaptionEntry, Entry, Note, ReadOptions, make_entry, skip_entry
from pipeline.datasets.table import detect_table, read_table
from pipeline.datasets.text_files import first_line, numbered_lines, open_text
from pipeline.errors import DataError
from pipeline.wording import counted

FLICKR8K_NAMES = ("captions.txt", "Flickr8k.token.txt")
FLICKR30K_NAMES = ("results.csv", "results_20130124.token", "captions.txt")
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_TOKEN_LINE = re.compile(r"[^\t]+#\d+\t|\S+#\d+ +\S")
_SPACES = re.compile(r"(\S+#\d+) +(.+)")
"""A line whose tab an editor has replaced."""
_NUMBERED = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)
_HEADER = re.compile(r"\s*\"?image_name\"?\s*\|", re.IGNORECASE)
_ROW = re.compile(r"([^|]*)\|(?:[^|]*\||\s*\d+\s+)(.*)", re.DOTALL)
"""An image name, a number and a caption; the second delimiter may be missing."""


def detect_flickr8k(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A token file, or a table of the name captions.txt."""
    for file in files_named(path, FLICKR8K_NAMES):
        if _is_token_file(file, options.encoding):
            if "results" not in file.name:  # Flickr30k's
                yield Candidate(file, f"{file.name}, lines of name#number, tab, caption", by_name=True)
        elif file.name == FLICKR8K_NAMES[0]:
            lists = any((file.parent / name).is_file() for name in SPLIT_LISTS.values())
            evidence = f"{file.name}, a table" + (" with Flickr8k's split lists beside it" if lists else "")
            for table in detect_table(file, options):
                yield replace(table, evidence=evidence, by_name=True)


def read_flickr8k(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read the captions file `path`, or the one in the folder. Raises `DataError`."""
    path = find_file(path, FLICKR8K_NAMES)
    splits = _read_split_lists(path.parent)
    if splits:
        yield Note(f"{path.parent}: DVC does not see the split lists; after a change run `dvc repro -f prepare`")
    found = set()
    is_token = _is_token_file(path, options.encoding)
    for entry in _read_token_file(path, options.encoding) if is_token else read_table(path, options):
        if not splits or not isinstance(entry, CaptionEntry):
            yield entry
        elif entry.image in splits:
            found.add(entry.image)
            yield from (replace(entry, split=split) for split in splits[entry.image])
        else:
            yield skip_entry(entry.image, "the image is in none of the split lists", entry.file, entry.line)
    yield from _check_split_lists(splits, found, path)


def _check_split_lists(splits: Mapping[str, Collection[str]], found: Collection[str], captions: Path) -> Iterator[Note]:
    """A note on names of a list that are not `found` in the captions. Raises `DataError` if none of a list is."""
    for split, name in SPLIT_LISTS.items():
        listed = [image for image, its_splits in splits.items() if split in its_splits]
        unknown = [image for image in listed if image not in found]
        if not unknown:
            continue
        if len(unknown) == len(listed):
            raise DataError(
                f"{captions.parent / name}: {captions.name} has none of its images, such as {unknown[0][:80]!r}; write "
                "the names as in the captions, or remove the list"
            )
        yield Note(f"{captions.parent / name}: {counted(len(unknown), 'image')} without captions, such as {unknown[0]}")


def _read_split_lists(folder: Path) -> dict[str, list[str]]:
    """The splits of each listed image; several are a leak, which `prepare` refuses or drops."""
    splits: dict[str, list[str]] = defaultdict(list)
    for split, name in SPLIT_LISTS.items():
        path = folder / name
        if not path.is_file():
            continue
        with open_text(path, AUTO) as file:
            for image in dict.fromkeys(text.strip() for _, text in numbered_lines(file)):
                if image:
                    splits[image].append(split)
    return splits


def detect_flickr30k(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file with Kaggle's header, or a token file of the name results*."""
    for file in files_named(path, FLICKR30K_NAMES):
        if _HEADER.match(first_line(file, options.encoding)):
            yield Candidate(file, f"{file.name}, columns delimited by |", by_name=True)
        elif "results" in file.name and _is_token_file(file, options.encoding):
            yield Candidate(file, f"{file.name}, lines of name#number, tab, caption", by_name=True)


def read_flickr30k(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read the captions file `path`, or the one in the folder. Raises `DataError`."""
    path = find_file(path, FLICKR30K_NAMES)
    if _is_token_file(path, options.encoding):
        yield from _read_token_file(path, options.encoding)
        return
    with open_text(path, options.encoding) as file:
        for number, text in numbered_lines(file):
            if not text.strip() or _HEADER.match(text):
                continue
            if row := _ROW.fullmatch(text):
                yield make_entry(row[1], row[2], None, path, number)
            else:
                name = text.partition("|")[0].strip()
                yield skip_entry(name, "expected image_name | comment_number | comment", path, number)


def _is_token_file(path: Path, encoding: str) -> bool:
    """Whether the first line is `name.jpg#0<TAB>caption`."""
    return _TOKEN_LINE.match(first_line(path, encoding)) is not None


def _read_token_file(path: Path, encoding: str) -> Iterator[Entry]:
    """Read lines of `name.jpg#0<TAB>caption`."""
    with open_text(path, encoding) as file:
        for number, text in numbered_lines(file):
            name, tab, caption = text.partition("\t")
            if not tab and (spaces := _SPACES.fullmatch(text)):
                name, caption = spaces.groups()
            elif not tab:
                if text.strip():
                    yield skip_entry(name, "no tab between the image name and the caption", path, number)
                continue
            name = name.rpartition("#")[0] or name
            # The original file has one image as `….jpg.1`, which is not the name of its file.
            numbered = _NUMBERED.fullmatch(name)
            yield make_entry(numbered[1] if numbered else name, caption, None, path, number)
