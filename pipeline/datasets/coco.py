"""Reader of `data.format: coco`: captions_train2017.json and captions_val2017.json (or 2014), or one such file.

COCO publishes no captions for its test pictures: with both files, the val file is the test split here, and a seeded
tenth of the train pictures becomes val (see splits.py). Pictures are looked for below the image folder under
`train2017/` and so on.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.datasets.entries import Entry, make_row, skip
from pipeline.datasets.jsonstream import elements
from pipeline.datasets.text_files import AUTO
from pipeline.errors import DataError

PATTERN = "captions_*.json"
_SPLITS = {"train": "train", "val": "test", "test": "test"}


def read_coco(path: Path, *, encoding: str = AUTO) -> Iterator[Entry]:
    """`path` is one file, or the folder (`annotations/`) with several. Raises `DataError`."""
    files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no {PATTERN}; check params.data.captions")
    for file in files:
        part = re.search(r"(train|val|test)(\d*)", file.stem)
        split = _SPLITS[part[1]] if part and len(files) > 1 else None
        yield from _read(file, f"{part[0]}/" if part else "", split, encoding)


class _Names:
    """The pictures of a file by their id; an id with two names says nothing."""

    def __init__(self) -> None:
        self.by_id: dict[Any, str | None] = {}

    def add(self, image: Any) -> str | None:
        """Learn a picture; what is wrong with it."""
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            return "the image has no file_name"
        number = image.get("id")
        if not isinstance(number, int | str):
            return f"the image's id is {str(number)[:40]!a}"
        if self.by_id.setdefault(number, image["file_name"]) != image["file_name"]:
            self.by_id[number] = None
            return f"image id {number!a} has two file names; its captions are left out"
        return None


def _read(path: Path, folder: str, split: str | None, encoding: str) -> Iterator[Entry]:
    names = _Names()
    seen: set[str] = set()
    early: list[tuple[int, Any]] = []
    complete = False
    for key, number, element in elements(path, {"images", "annotations"}, encoding):
        if number == 0:
            seen.add(key)
            complete = complete or (key == "annotations" and "images" in seen)
        elif key == "images":
            wrong = names.add(element)
            if wrong:
                name = element.get("file_name") if isinstance(element, dict) else ""
                yield skip(name if isinstance(name, str) else "", wrong, path, number)
        elif complete:
            yield _entry(element, names, folder, split, path, number)
        else:
            early.append((number, element))
    if seen != {"images", "annotations"}:
        raise DataError(f"{path}: not in COCO's layout: expected the lists 'images' and 'annotations'")
    for number, element in early:  # the annotations stood before the images
        yield _entry(element, names, folder, split, path, number)


def _entry(annotation: Any, names: _Names, folder: str, split: str | None, path: Path, number: int) -> Entry:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
        return skip("", "the annotation has no caption", path, number)
    image_id = annotation.get("image_id")
    if not isinstance(image_id, int | str) or image_id not in names.by_id:
        return skip("", f"image_id {str(image_id)[:40]} is not among the images", path, number)
    name = names.by_id[image_id]
    if name is None:
        return skip("", f"image_id {str(image_id)[:40]} has two file names", path, number)
    return make_row(folder + name if name and "/" not in name else name, annotation["caption"], split, path, number)
