"""Counts captions with HTML tags or entities, which become tokens and then occur in generated captions."""

import re
from collections.abc import Iterable

from pipeline.wording import counted

_TAGS = "a|b|big|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|small|span|strong|sub|sup|table|td|tr|u|ul"
_MARKUP = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:[a-z][a-z\d]+|#\d+|#x[\da-f]+);", re.IGNORECASE)


def html_note(captions: Iterable[str]) -> str | None:
    """The note on captions with HTML, with their number and an example; None where there are none."""
    found = [match[0] for caption in captions if (match := _MARKUP.search(caption))]
    if not found:
        return None
    return (
        f"{counted(len(found), 'caption holds', 'captions hold')} HTML, such as {found[0]}, which is kept as text; "
        "remove it from the captions file"
    )
