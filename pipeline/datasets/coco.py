"""The format `coco`: captions_train2017.json and captions_val2017.json (or 2014), one such file, or others in COCO's
layout, such as VizWiz's train.json and val.json.

COCO publishes no captions of its test images. With a train and a val file, the val file is the test split, and a tenth
of the train images, drawn from the seed, becomes val (see splits.py). Names are below the folder that the file is named
after: `train2017/000000000001.jpg`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.caption_rows import CaptionRow
from pipeline.datasets.detection import Candidate, first_download, note_downloads
from pipeline.datasets.entries import SPLIT_NAMES, Entry, Note, ReadOptions, make_entry, skip_entry
from pipeline.datasets.text_files import load_json, sniff_json
from pipeline.errors import DataError
from pipeline.wording import counted

PATTERN = "captions_*.json"
_PART = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})(?![a-z])(\d*)")
_KEYS = re.compile(r'"(file_name|image_id)"\s*:')


def detect_coco(path: Path, options: ReadOptions) -> Iterator[Candidate]:
    """A file in COCO's layout, or such files in a folder or its `annotations`."""
    if path.is_file():
        if path.suffix.lower() == ".json" and (path.match(PATTERN) or _has_captions(path)):
            yield Candidate(path, f"{path.name}, COCO's images and annotations", by_name=path.match(PATTERN))
        return
    for folder in (path, path / "annotations"):
        files = _files_in(folder)
        if files:
            names = " and ".join(file.name for file in files)
            captions = files[0] if len(files) == 1 else folder
            yield Candidate(captions, f"{names}, COCO's images and annotations", by_name=files[0].match(PATTERN))
        elif folder != path:
            for file in sorted(folder.glob("*.json")):
                yield Candidate(file, "", problem=f"{file}: JSON without COCO's captions")


def _files_in(folder: Path) -> list[Path]:
    """Files named as COCO's captions are; else all with captions in COCO's layout."""
    named = [file for file in sorted(folder.glob(PATTERN)) if not first_download(file)]
    found = [] if named else [file for file in sorted(folder.glob("*.json")) if _has_captions(file)]
    return named or [file for file in found if first_download(file) not in found]


def _has_captions(path: Path) -> bool:
    """Whether a JSON file is in COCO's layout and has captions, which COCO's files of boxes and keypoints have not."""
    content = sniff_json(path)
    return (
        content.startswith("{")
        and '"images"' in content
        and _KEYS.search(content) is not None
        and '"caption"' in content
    )


def read_coco(path: Path, options: ReadOptions) -> Iterator[Entry]:
    """Read one file, or all in the folder `path`. Raises `DataError`."""
    files = _files_in(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no {PATTERN}; check params.data.captions")
    parts = {file: next(reversed(list(_PART.finditer(file.stem))), None) for file in files}
    if any(parts.values()) and not all(parts.values()):
        unnamed = next(file for file, part in parts.items() if part is None)
        raise DataError(f"{unnamed}: no split in its name, but other files have one; name it train, val or test")
    names = {SPLIT_NAMES[part[1]] for part in parts.values() if part}
    splits = {"train": "train", "val": "val" if "test" in names else "test", "test": "test"}
    for file, part in parts.items():
        split = splits[SPLIT_NAMES[part[1]]] if part and len(files) > 1 else None
        yield from _read_file(file, part[0].removeprefix("rest") + "/" if part else "", split, options.encoding)
    if path.is_dir():
        yield from note_downloads(path, files)


def _read_file(path: Path, folder: str, split: str | None, encoding: str) -> Iterator[Entry]:
    content = load_json(path, encoding)
    images, annotations = (content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: not in COCO's layout: expected the lists 'images' and 'annotations'")
    yield from note_marks(annotations, path)
    for row in read_annotations(images, annotations):
        image_id, *files = row.names or ("",)
        if row.problem or len(files) != 1:
            problem = "has two file names" if files else "is not the id of an image with a file_name"
            yield skip_entry("", row.problem or f"image_id {str(image_id)[:40]} {problem}", path, row.line)
        else:
            name = files[0] if "/" in files[0] else folder + files[0]
            yield make_entry(name, row.captions[0], split, path, row.line)


def read_annotations(images: Sequence[Any], annotations: Sequence[Any]) -> Iterator[CaptionRow]:
    """A row for each annotation, named by the id and the file names of its image."""
    files: dict[str, dict[str, None]] = defaultdict(dict)
    for image in images:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            files[str(_whole(image.get("id")))][image["file_name"]] = None
    for number, annotation in enumerate(annotations, start=1):
        content = annotation if isinstance(annotation, dict) else {}
        image_id, caption = _whole(content.get("image_id")), content.get("caption")
        if isinstance(image_id, int | str) and isinstance(caption, str):
            yield CaptionRow(number, image_id, (caption,), names=(image_id, *files.get(str(image_id), ())))
        else:
            yield CaptionRow(number, problem="the annotation has no image_id, or no caption that is text")


def _whole(number: Any) -> Any:
    """An id that pandas has written as a float as the integer that it was."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def note_marks(annotations: Sequence[Any], source: str | Path) -> Iterator[Note]:
    """A note for each mark of unfit captions in the file, such as VizWiz's `is_rejected`."""
    for mark in ("is_rejected", "is_precanned"):
        if count := sum(isinstance(one, dict) and one.get(mark) is True for one in annotations):
            captions = counted(count, f"caption with the mark {mark} is", f"captions with the mark {mark} are")
            yield Note(f"{source}: {captions} used; to leave such captions out, delete them from the file")
