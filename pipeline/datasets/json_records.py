"""Finds the records of a dataset in JSON, whatever holds them.

    [{"image": ..., "caption": ...}, ...]              a list
    {"train": [...], "val": [...]}                     a list per split, as R2Gen has it
    {"data": [...], "dataset_name": ...}               one list among other values, as TextCaps has it
    {"a.jpg": ["a dog", "a wet dog"], ...}             captions by image, or an object by image

A record of LLaVA has a conversation, whose answer is the caption.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.datasets.entries import SPLIT_NAMES

_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))
_LAYOUTS = (
    r'\{\s*"(' + "|".join(SPLIT_NAMES) + r')"\s*:\s*\[',
    r'\{(?!.*"images"\s*:\s*\[).*"\w+"\s*:\s*\[\s*\{',
    r'\{\s*"[^"]+"\s*:\s*\[\s*"',
    rf'\{{\s*"[^"]+({_SUFFIXES})(#\d+)?"\s*:',
)
_LAYOUT = re.compile("|".join(_LAYOUTS), re.DOTALL | re.IGNORECASE)
_TEXT_BY_NAME = re.compile(r'\{\s*"[^"]+"\s*:\s*"')


def may_have_records(start: str) -> bool:
    """Whether JSON that starts like this may hold records. COCO's boxes, which are large, do not look like it."""
    return start.startswith("[") or _LAYOUT.match(start) is not None


def may_have_text_by_name(start: str) -> bool:
    """Whether JSON that starts like this may be `{"a": "a dog"}`: captions by image, or anything else."""
    return _TEXT_BY_NAME.match(start) is not None and not may_have_records(start)


def find_records(content: Any) -> Iterator[Any] | None:
    """The records, each an object with its image, captions and perhaps split; None in JSON of something else.

    A value that is no object is returned as it is, for the reader to skip.
    """
    if isinstance(content, list):
        return map(_with_answer, content)
    if not isinstance(content, dict) or not content:
        return None
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    if lists and all(key.lower() in SPLIT_NAMES for key in lists):
        return (
            {"split": split, **_with_answer(record)} if isinstance(record, dict) else record
            for split, records in lists.items()
            for record in records
        )
    of_objects = [value for value in lists.values() if value and all(isinstance(one, dict) for one in value)]
    if len(of_objects) == 1:
        return map(_with_answer, of_objects[0])
    if any(of_objects):
        return None
    return (
        {"image": image, **value} if isinstance(value, dict) else {"image": image, "caption": value}
        for image, value in content.items()
    )


def _with_answer(record: Any) -> Any:
    """A record of LLaVA with the only answer of its conversation as its caption; any other as it is."""
    turns = record.get("conversations") if isinstance(record, Mapping) else None
    if not isinstance(turns, list) or "caption" in record:
        return record
    answers = [turn.get("value") for turn in turns if isinstance(turn, Mapping) and turn.get("from") == "gpt"]
    return {**record, "caption": answers[0] if len(answers) == 1 else None}
