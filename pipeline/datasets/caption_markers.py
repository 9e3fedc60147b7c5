"""Strips start and end markers around every caption, such as `startseq ... endseq`, which training scripts add."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.datasets.entries import CaptionEntry

MARKERS = {
    "startseq": "endseq",
    "<startseq>": "<endseq>",
    "startofseq": "endofseq",
    "<start>": "<end>",
    "[start]": "[end]",
    "<s>": "</s>",
    "<bos>": "<eos>",
    "<sos>": "<eos>",
    "bos": "eos",
    "sos": "eos",
    "ssss": "eeee",
    "[cls]": "[sep]",
    "<|startoftext|>": "<|endoftext|>",
}


def strip_markers(captions: Sequence[CaptionEntry]) -> tuple[list[CaptionEntry], str | None]:
    """Captions without the markers that surround all of them, and a note; unchanged where one caption has none."""
    wrappers = {_wrapper(entry.caption) for entry in captions}
    wrapper = wrappers.pop() if len(wrappers) == 1 else None
    if wrapper is None:
        return list(captions), None
    start, end = wrapper
    stripped = [replace(entry, caption=entry.caption[len(start) : -len(end)].strip()) for entry in captions]
    return stripped, f"every caption stands between {start!r} and {end!r}, which are removed"


def _wrapper(caption: str) -> tuple[str, str] | None:
    words = caption.split(" ")
    if len(words) > 2 and MARKERS.get(words[0].lower()) == words[-1].lower():
        return words[0], words[-1]
    return None
