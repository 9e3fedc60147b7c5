"""Recognizes captions whose letters the word tokenizer drops, as coco-caption's does: letters outside Unicode's basic
plane, and vowel signs of some writing systems, such as Kannada and Sinhala."""

import unicodedata
from collections.abc import Iterable
from functools import cache

from pipeline.text import ptb_tokenizer


def share_with_dropped_letters(captions: Iterable[str]) -> float:
    """The share of captions that hold a letter or a mark that the word tokenizer drops."""
    total = found = 0
    for caption in captions:
        total += 1
        if not caption.isascii():
            found += any(map(_is_dropped, set(caption)))
    return found / total if total else 0.0


@cache
def _is_dropped(character: str) -> bool:
    if unicodedata.category(character) not in {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc"} or _is_selector(character):
        return False
    return character.lower() not in "".join(ptb_tokenizer.tokenize(character))


def _is_selector(character: str) -> bool:
    """Whether the character selects a form of the one before, such as the color of an emoji; it is no letter."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
