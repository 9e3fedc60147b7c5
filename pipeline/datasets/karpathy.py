"""The format `karpathy`: dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json.

They hold the splits that most papers report on (Karpathy and Fei-Fei, CVPR 2015). COCO's `restval` belongs to train.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.caption_rows import CaptionRow, read_entries
from pipeline.datasets.detection import Candidate
from pipeline.datasets.entries import Entry, ReadOptions
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
    yield from read_entries(read_images(images), path)


def read_images(images: Sequence[Any]) -> Iterator[CaptionRow]:
    """A row for each image, named by its path, its file name and, in COCO, its id."""
    for number, image in enumerate(images, start=1):
        content = image if isinstance(image, dict) else {}
        folder, name, sentences = (content.get(key) for key in ("filepath", "filename", "sentences"))
        if not isinstance(name, str):
            yield CaptionRow(number, problem="the image has no filename")
            continue
        path = f"{folder}/{name}" if isinstance(folder, str) and folder else name
        listed = sentences if isinstance(sentences, list) else []
        captions = tuple(one.get("raw") if isinstance(one, dict) else None for one in listed)
        yield CaptionRow(number, path, captions, content.get("split"), names=(path, name, content.get("cocoid")))
