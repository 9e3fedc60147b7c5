"""Reader of `data.format: flickr8k`: Kaggle's captions.txt (a quoted CSV) or the original Flickr8k.token.txt.

The splits are the lists Flickr_8k.trainImages.txt, .devImages.txt and .testImages.txt, where they lie beside the
captions; a picture that no list names is in no split then, as in the original data.
"""

from pathlib import Path

from pipeline.captions.rows import Captions, Row
from pipeline.captions.table import read_table
from pipeline.errors import DataError

LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


def read_flickr8k(path: Path) -> Captions:
    """`path` is the captions file or the folder that holds it. Raises `DataError`."""
    if path.is_dir():
        names = ("captions.txt", "Flickr8k.token.txt")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: holds neither {' nor '.join(names)}; check params.data.captions")
        path = found[0]
    captions = _read_tokens(path) if _is_token_file(path) else read_table(path)
    splits = _read_splits(path.parent)
    if not splits:
        return captions
    with_splits = Captions(skipped=captions.skipped)
    for row in captions.rows:
        split = splits.get(row.image)
        if split is None:
            with_splits.skip(row.image, "the picture is in none of the split lists", Path(row.file), row.line)
        else:
            with_splits.rows.append(Row(row.image, row.caption, split, row.file, row.line))
    return with_splits


def _is_token_file(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return "\t" in file.readline()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check params.data.captions") from error


def _read_tokens(path: Path) -> Captions:
    """Lines of `name.jpg#0<TAB>caption`."""
    captions = Captions()
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line, text in enumerate(file, start=1):
                name, tab, caption = text.rstrip("\r\n").partition("\t")
                if not tab:
                    captions.skip(name, "no tab between the picture's name and the caption", path, line)
                else:
                    captions.add(name.rpartition("#")[0] or name, caption, None, path, line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return captions


def _read_splits(folder: Path) -> dict[str, str]:
    """The split of each listed picture. Raises `DataError` when a picture is in two lists."""
    splits: dict[str, str] = {}
    for split, name in LISTS.items():
        path = folder / name
        if not path.is_file():
            continue
        for image in path.read_text(encoding="utf-8-sig").split():
            if splits.setdefault(image, split) != split:
                raise DataError(f"{path}: {image} is also in {LISTS[splits[image]]}; a picture belongs to one split")
    return splits
