"""The wording of messages: counts, lists of names, and text from data with its control characters escaped."""

import re
from collections.abc import Sequence

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal, hide text or change its direction, or that cannot be encoded."""


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number and its noun, `1 image` or `2,000 images`; `several`: the plural where it is not `one` + s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def shown_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def visible(text: str) -> str:
    """Return `text` in one line, with control characters escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)
