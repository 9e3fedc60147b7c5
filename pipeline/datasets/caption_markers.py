"""Finds start and end markers around every caption, such as `startseq ... endseq`, which training scripts add."""

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Markers:
    """The first and the last word of every caption."""

    start: str
    end: str

    def remove(self, caption: str) -> str:
        """A caption without its first and its last word."""
        return caption.strip()[len(self.start) : -len(self.end)].strip()

    @property
    def note(self) -> str:
        return f"every caption starts with {self.start!r} and ends with {self.end!r}; both are removed"


def find_markers(captions: Iterable[str]) -> Markers | None:
    """The markers that surround all captions; None where one caption has none."""
    found = None
    for caption in captions:
        words = caption.split()
        if len(words) < 3 or MARKERS.get(words[0].lower()) != words[-1].lower():
            return None
        markers = Markers(words[0], words[-1])
        if found not in (None, markers):
            return None
        found = markers
    return found
