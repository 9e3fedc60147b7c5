"""Reader of `data.format: karpathy`: dataset_flickr8k.json, dataset_flickr30k.json and dataset_coco.json.

They hold the splits that most papers report on. COCO's `restval` pictures are trained on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.datasets.entries import SPLIT_NAMES, SPLITS, Entry, make_row, skip
from pipeline.datasets.jsonstream import elements
from pipeline.datasets.text_files import AUTO
from pipeline.errors import DataError

PATTERN = "dataset_*.json"


def read_karpathy(path: Path, *, encoding: str = AUTO) -> Iterator[Entry]:
    """`path` is the file or the folder that holds it. Raises `DataError`."""
    if path.is_dir():
        files = sorted(path.glob(PATTERN))
        if len(files) != 1:
            raise DataError(f"{path}: holds {len(files) or 'no'} {PATTERN}; name one file in params.data.captions")
        path = files[0]
    seen = False
    for _, number, element in elements(path, {"images"}, encoding):
        if number == 0:
            seen = True
        else:
            yield from _entries(element, path, number)
    if not seen:
        raise DataError(f"{path}: not in Karpathy's layout: expected the list 'images'")


def _entries(image: Any, path: Path, number: int) -> Iterator[Entry]:
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        yield skip("", "the image has no filename", path, number)
        return
    folder = image.get("filepath")
    name = f"{folder}/{image['filename']}" if isinstance(folder, str) and folder else image["filename"]
    split = SPLIT_NAMES.get(str(image.get("split")).lower())
    if split is None:
        allowed = ", ".join([*SPLITS, "restval"])
        yield skip(name, f"split must be one of {allowed}, got {str(image.get('split'))[:40]!a}", path, number)
        return
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        yield skip(name, "the image has no sentences", path, number)
        return
    for sentence in sentences:
        if isinstance(sentence, dict) and isinstance(sentence.get("raw"), str):
            yield make_row(name, sentence["raw"], split, path, number)
        else:
            yield skip(name, "the sentence has no raw text", path, number)
