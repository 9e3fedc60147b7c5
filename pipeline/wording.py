"""Counts and lists of names in messages."""

from collections.abc import Sequence


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number and its noun, `1 image` or `2,000 images`; `several`: the plural where it is not `one` + s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def shown_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
