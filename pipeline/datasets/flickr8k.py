"""Reader of `data.format: flickr8k`: Kaggle's captions.txt (a quoted CSV) or the original Flickr8k.token.txt.

The splits are the lists Flickr_8k.trainImages.txt, .devImages.txt and .testImages.txt, where they lie beside the
captions; a picture that no list names is in no split then, as in the original data.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.datasets.entries import Entry, Row, make_row, skip
from pipeline.datasets.table import Columns, read_table
from pipeline.datasets.text_files import AUTO, lines, open_text
from pipeline.errors import DataError

NAMES = ("captions.txt", "Flickr8k.token.txt")
LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
TOKEN_LINE = re.compile(r"[^\t]+#\d+\t")
_NUMBERED = re.compile(r"(.+\.jpe?g)\.\d+", re.IGNORECASE)


def read_flickr8k(path: Path, *, encoding: str = AUTO, columns: Columns = Columns()) -> Iterator[Entry]:
    """`path` is the captions file or the folder that holds it. Raises `DataError`."""
    path = file_in(path, NAMES)
    splits = _read_splits(path.parent)
    tokens = is_token_file(path, encoding)
    for entry in read_tokens(path, encoding) if tokens else read_table(path, encoding=encoding, columns=columns):
        if not splits or not isinstance(entry, Row):
            yield entry
        elif entry.image in splits:
            yield replace(entry, split=splits[entry.image])
        else:
            yield skip(entry.image, "the picture is in none of the split lists", entry.file, entry.line)


def file_in(path: Path, names: tuple[str, ...]) -> Path:
    """`path`, or in a folder the first of `names` that is there. Raises `DataError`."""
    if not path.is_dir():
        return path
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise DataError(f"{path}: holds neither {' nor '.join(names)}; check params.data.captions")
    return found[0]


def is_token_file(path: Path, encoding: str) -> bool:
    with open_text(path, encoding) as file:
        return TOKEN_LINE.match(file.readline()) is not None


def read_tokens(path: Path, encoding: str) -> Iterator[Entry]:
    """Lines of `name.jpg#0<TAB>caption`."""
    with open_text(path, encoding) as file:
        for line, text in lines(file):
            name, tab, caption = text.partition("\t")
            if not tab:
                if text.strip():
                    yield skip(name, "no tab between the picture's name and the caption", path, line)
                continue
            name = name.rpartition("#")[0] or name
            # The original file has one picture as `….jpg.1`, a name that no file bears.
            numbered = _NUMBERED.fullmatch(name)
            yield make_row(numbered[1] if numbered else name, caption, None, path, line)


def _read_splits(folder: Path) -> dict[str, str]:
    """The split of each listed picture. Raises `DataError` when a picture is in two lists."""
    splits: dict[str, str] = {}
    for split, name in LISTS.items():
        path = folder / name
        if not path.is_file():
            continue
        with open_text(path) as file:
            for _, line in lines(file):
                image = line.strip()
                if image and splits.setdefault(image, split) != split:
                    raise DataError(
                        f"{path}: {image} is also in {LISTS[splits[image]]}; a picture belongs to one split"
                    )
    return splits
