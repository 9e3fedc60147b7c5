"""Scripts that do not part words with spaces, by which a word tokenizer takes a whole caption for one word."""

import re
from collections.abc import Iterable

# Thai, Lao, Tibetan, Myanmar, Khmer; kana; Han with its extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def is_written_without_spaces(character: str) -> bool:
    return _UNSPACED.match(character) is not None


def share_without_spaces(captions: Iterable[str]) -> float:
    """The share of captions at least half of whose characters are of such a script."""
    total = found = 0
    for caption in captions:
        total += 1
        if not caption.isascii():
            found += 2 * len(_UNSPACED.findall(caption)) >= len(caption.replace(" ", ""))
    return found / total if total else 0.0
