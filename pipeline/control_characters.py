"""Control characters in text from data: they can move a terminal's cursor, hide text or change its direction."""

import re

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or the direction of text, or that cannot be encoded."""


def visible(text: str) -> str:
    """Return `text` in one line, with control characters escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)
