"""Recognizes captions that the word tokenizer does not suit.

In a writing system without spaces between words it returns a caption as one token. As coco-caption's does, it drops
letters outside Unicode's basic plane, and vowel signs of some writing systems, such as Kannada and Sinhala.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

from pipeline.text import ptb_tokenizer

# Thai, Lao, Tibetan, Myanmar, Khmer; kana; Han with its extensions.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)

_SPACE_WITHIN = re.compile(rf"(?<={_WITHOUT_SPACES.pattern})\s+(?={_WITHOUT_SPACES.pattern})")
"""A space between letters of these writing systems, and not beside a digit, a Latin word or punctuation."""
_LETTERS_OF_PHRASE = 6
"""The mean number of letters between spaces from which on these separate phrases, not words."""


def is_written_without_spaces(character: str) -> bool:
    return _WITHOUT_SPACES.match(character) is not None


def share_without_spaces(captions: Iterable[str]) -> float:
    """The share of captions of which at least half the characters belong to a writing system without spaces.

    Captions whose words are separated by spaces all the same do not count.
    """
    return _share(captions, _is_without_spaces)


def share_with_dropped_letters(captions: Iterable[str]) -> float:
    """The share of captions that hold a letter or a mark that the word tokenizer drops."""
    return _share(captions, lambda text: any(map(_is_dropped, set(text))))


def _is_without_spaces(text: str) -> bool:
    letters, parts = len(_WITHOUT_SPACES.findall(text)), 1 + len(_SPACE_WITHIN.findall(text))
    return 2 * letters >= len(text.replace(" ", "")) and (parts == 1 or letters >= _LETTERS_OF_PHRASE * parts)


def _share(captions: Iterable[str], is_found: Callable[[str], bool]) -> float:
    """The share of captions in which something is found that no ASCII text has; 0 without captions."""
    total = found = 0
    for caption in captions:
        total += 1
        found += not caption.isascii() and is_found(caption)
    return found / total if total else 0.0


@cache
def _is_dropped(character: str) -> bool:
    if unicodedata.category(character) not in {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc"} or _is_selector(character):
        return False
    return character.lower() not in "".join(ptb_tokenizer.tokenize(character))


def _is_selector(character: str) -> bool:
    """Whether the character selects a form of the one before, such as the color of an emoji; it is no letter."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
