"""Several references in one field of a table, as in metrics/captions.csv."""

from collections.abc import Sequence

SEPARATOR = " | "
"""Separates the references; a `|` inside a reference is escaped with a backslash."""


def join_references(captions: Sequence[str]) -> str:
    """Several captions in one field of a table."""
    return SEPARATOR.join(caption.replace("\\", "\\\\").replace("|", "\\|") for caption in captions)


def split_references(text: str) -> tuple[str, ...]:
    """The inverse of `join_references`."""
    if "\\" not in text:
        return tuple(text.split(SEPARATOR))
    captions, escaped = [""], False
    for character in text:
        if escaped:
            captions[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "|":
            captions[-1] = captions[-1].removesuffix(" ")
            captions.append("")
        elif not (character == " " and len(captions) > 1 and not captions[-1]):
            captions[-1] += character
    return tuple(captions)
