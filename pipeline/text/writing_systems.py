"""Recognizes writing systems without spaces between words, where a word tokenizer returns a caption as one token."""

import re
from collections.abc import Iterable

# Thai, Lao, Tibetan, Myanmar, Khmer; kana; Han with its extensions.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def is_written_without_spaces(character: str) -> bool:
    return _WITHOUT_SPACES.match(character) is not None


def share_without_spaces(captions: Iterable[str]) -> float:
    """The share of captions of which at least half the characters belong to such a writing system."""
    total = found = 0
    for caption in captions:
        total += 1
        if not caption.isascii():
            found += 2 * len(_WITHOUT_SPACES.findall(caption)) >= len(caption.replace(" ", ""))
    return found / total if total else 0.0
