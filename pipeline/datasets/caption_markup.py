"""Markup in captions: start and end markers around all of them, which training scripts add, and HTML."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.wording import counted

_STARTS = (
    *(r"<(?:s|bos|sos|start|startseq|pad)>", r"\[(?:start|bos|cls|pad)\]", r"<\|(?:startoftext|endoftext)\|>"),
    *(r"(?:startseq|startofseq)(?=\s)", r"(?:bos|sos|ssss)(?=\s.*\s(?:eos|eeee)\b)"),
)
_ENDS = (
    *(r"</s>", r"<(?:eos|end|endseq|pad)>", r"\[(?:end|eos|sep|pad)\]", r"<\|endoftext\|>"),
    r"(?<=\s)(?:endseq|endofseq|eos|eeee)",
)
_PAIRED_ENDS = ("eos", "eeee")
"""No markers without a start marker: a caption may end in the name of a camera."""
_START = re.compile(rf"\s*({'|'.join(_STARTS)})(?:\s*(?:{'|'.join(_STARTS)}))*", re.IGNORECASE | re.DOTALL)
_END = re.compile(rf"({'|'.join(_ENDS)})(?:\s*(?:{'|'.join(_ENDS)}))*\s*", re.IGNORECASE)
"""The first marker; more of them, and padding, may follow."""
_TAGS = "a|b|big|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|small|span|strong|sub|sup|table|td|tr|u|ul"
_HTML = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:[a-z][a-z\d]+|#\d+|#x[\da-f]+);", re.IGNORECASE)


def clean_captions(captions: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The captions without the start or end markers that all of them have, and notes on markers and on HTML.

    Markers that only some captions have are kept, and HTML: its tags and entities become tokens and then occur in
    generated captions.
    """
    notes = []
    parts = [_find_markers(caption) for caption in captions]
    with_text = [part for part in parts if part.has_text]
    starts, ends = {part.start for part in with_text}, {part.end for part in with_text}
    start, end = (next(iter(found)) if len(found) == 1 else "" for found in (starts, ends))
    marked = [
        caption
        for caption, part in zip(captions, parts, strict=True)
        if (part.start and not start) or (part.end and not end)
    ]
    if start or end:
        captions = [
            caption[part.first if start else 0 : part.last if end else None].strip()
            for caption, part in zip(captions, parts, strict=True)
        ]
        found = " and ".join([f"starts with {start!r}"] * bool(start) + [f"ends with {end!r}"] * bool(end))
        notes.append(f"every caption {found}; {'both are' if start and end else 'it is'} removed")
    if marked:
        number = counted(len(marked), "caption has", "captions have")
        example = f"such as {marked[0]!r:.80}"
        notes.append(f"{number} start or end markers that not all have, {example}; remove them, or they are words")
    html = [match[0] for caption in captions if (match := _HTML.search(caption))]
    if html:
        number = counted(len(html), "caption holds", "captions hold")
        notes.append(f"{number} HTML, such as {html[0]}, which is kept as text; remove it from the captions file")
    return captions, notes


class _Markers(NamedTuple):
    """The markers of a caption, empty where there is none, and where its text begins and ends."""

    start: str
    first: int
    last: int
    end: str
    has_text: bool


def _find_markers(caption: str) -> _Markers:
    start = _START.match(caption)
    first = start.end() if start else 0
    last = caption.rstrip().rfind(" ")
    end = _END.search(caption, max(last, 0))  # most captions have none, and the last word is searched fast
    if end:
        end = next((run for run in _END.finditer(caption, first) if run.end() == len(caption)), None)
    if end and not start and end[1].lower() in _PAIRED_ENDS:
        end = None
    last = end.start() if end else len(caption)
    if not caption[first:last].strip():  # markers alone: an empty caption where markers are removed
        return _Markers("", len(caption), 0, "", has_text=False)
    return _Markers(start[1] if start else "", first, last, end[1] if end else "", has_text=True)
