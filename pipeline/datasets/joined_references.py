"""Several references in one field of a table, as in metrics/captions.csv."""

import re
from collections.abc import Sequence

SEPARATOR = " | "
"""Separates the references; a `|` inside a reference is escaped with a backslash."""


def join_references(captions: Sequence[str]) -> str:
    """Several captions in one field of a table."""
    return SEPARATOR.join(caption.replace("\\", "\\\\").replace("|", "\\|") for caption in captions)


def split_references(text: str) -> tuple[str, ...]:
    """The inverse of `join_references`."""
    return tuple(re.sub(r"\\([\\|])", r"\1", caption) for caption in text.split(SEPARATOR))
