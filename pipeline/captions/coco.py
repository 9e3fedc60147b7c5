"""Reader of `data.format: coco`: captions_train2017.json and captions_val2017.json (or 2014), or one such file.

COCO publishes no captions for its test pictures: the val file is the test split here, and a seeded tenth of the train
pictures becomes val (see splits.py). Pictures are looked for below the image folder under `train2017/` and so on.
"""

import json
import re
from pathlib import Path
from typing import Any

from pipeline.captions.rows import Captions
from pipeline.errors import DataError


def read_coco(path: Path) -> Captions:
    """`path` is one file, or the folder (`annotations/`) with several. Raises `DataError`."""
    files = sorted(path.glob("captions_*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no captions_*.json; check params.data.captions")
    captions = Captions()
    for file in files:
        _read(file, captions)
    return captions


def _read(path: Path, captions: Captions) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check params.data.captions") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    images, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: not in COCO's layout: expected the lists 'images' and 'annotations'")
    part = re.search(r"(train|val|test)(\d*)", path.stem)
    folder = f"{part[0]}/" if part else ""
    split = {"train": "train-or-val", "val": "test", "test": "test"}[part[1]] if part else None
    names = {image.get("id"): image.get("file_name") for image in images if isinstance(image, dict)}
    for number, annotation in enumerate(annotations, start=1):
        _add(captions, annotation, names, folder, split, path, number)


def _add(
    captions: Captions, annotation: Any, names: dict[Any, Any], folder: str, split: str | None, path: Path, number: int
) -> None:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
        captions.skip("", "the annotation has no caption", path, number)
        return
    name = names.get(annotation.get("image_id"))
    if not isinstance(name, str):
        captions.skip("", f"image_id {annotation.get('image_id')!r} is not among the images", path, number)
        return
    captions.add(folder + name if name else "", annotation["caption"], split, path, number)
