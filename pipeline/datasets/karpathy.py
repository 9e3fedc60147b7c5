"""The format `karpathy`: dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json.

They hold the splits that most papers report on (Karpathy and Fei-Fei, CVPR 2015). COCO's `restval` is trained on.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import SPLIT_NAMES, SPLITS, Entry, ReadOptions, make_entry, skip_entry
from pipeline.datasets.text_files import load_json, sniff_json
from pipeline.errors import DataError

PATTERN = "dataset_*.json"
_KEYS = re.compile(r'\{.*"sentences"\s*:\s*\[', re.DOTALL)


def detect_karpathy(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """JSON files with the name or the keys of Karpathy's."""
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        by_name = file.match(PATTERN)
        if by_name or (file.suffix.lower() == ".json" and _KEYS.match(sniff_json(file))):
            yield Candidate(file, f"{file.name}, images with sentences and Karpathy's splits", by_name=by_name)


def read_karpathy(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read the file `path`, or the only such file in the folder. Raises `DataError`."""
    if path.is_dir():
        files = sorted(path.glob(PATTERN))
        if len(files) != 1:
            raise DataError(f"{path}: holds {len(files) or 'no'} {PATTERN}; name one file in params.data.captions")
        path = files[0]
    content = load_json(path, options.encoding)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{path}: not in Karpathy's layout: expected the list 'images'")
    for number, image in enumerate(images, start=1):
        yield from _read_image(image, path, number)


def _read_image(image: Any, path: Path, number: int) -> Iterator[Entry]:
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        yield skip_entry("", "the image has no filename", path, number)
        return
    folder = image.get("filepath")
    name = f"{folder}/{image['filename']}" if isinstance(folder, str) and folder else image["filename"]
    split = SPLIT_NAMES.get(str(image.get("split")).lower())
    sentences = image.get("sentences")
    if split is None:
        allowed = ", ".join([*SPLITS, "restval"])
        yield skip_entry(name, f"split must be one of {allowed}, got {str(image.get('split'))[:40]!a}", path, number)
    elif not isinstance(sentences, list) or not sentences:
        yield skip_entry(name, "the image has no sentences", path, number)
    else:
        for sentence in sentences:
            if isinstance(sentence, dict) and isinstance(sentence.get("raw"), str):
                yield make_entry(name, sentence["raw"], split, path, number)
            else:
                yield skip_entry(name, "the sentence has no raw text", path, number)
