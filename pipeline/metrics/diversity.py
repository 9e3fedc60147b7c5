"""Signs that a captioner has learned the language and not the pictures: it repeats itself, or stops early.

No score shows them: one safe sentence for every picture can have a fair BLEU. AdditiveAttention at them beside those of captions
that people wrote for the same pictures.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

FUNCTION_WORDS = frozenset(
    word
    for words in (
        "a an the this that these those its his their some",
        "and or but while as than",
        "at by for from in into near of on onto over through to under with without",
        "is are was were be being has have",
    )
    for word in words.split()
)
"""Words that leave an English caption unfinished when they end it."""


def diversity(hypotheses: Sequence[str], vocabulary_size: int | None) -> dict[str, float]:
    """Shares are between 0 and 1, lengths in tokens; captions are tokens between spaces.

    `vocabulary_used` is left out when `vocabulary_size` is None: a file of captions has no vocabulary. Raises
    `ValueError` without captions or for a vocabulary without words.
    """
    if not hypotheses:
        raise ValueError("there are no captions to look at: `hypotheses` is empty")
    if vocabulary_size is not None and vocabulary_size < 1:
        raise ValueError(f"`vocabulary_size` must be at least 1, got {vocabulary_size}")
    captions = [tuple(caption.split()) for caption in hypotheses]
    times = Counter(captions)
    words = {word for caption in captions for word in caption}
    share_used = {} if vocabulary_size is None else {"vocabulary_used": len(words) / vocabulary_size}
    return {
        "distinct_captions": len(times) / len(captions),
        "most_common_caption": times.most_common(1)[0][1] / len(captions),
        "distinct_words": float(len(words)),
        **share_used,
        "mean_length": sum(map(len, captions)) / len(captions),
        "empty_captions": captions.count(()) / len(captions),
        "ends_in_function_word": sum(map(ends_in_function_word, captions)) / len(captions),
        "repeated_word": sum(map(repeats_a_word, captions)) / len(captions),
        "repeated_phrase": sum(map(repeats_a_phrase, captions)) / len(captions),
    }


def ends_in_function_word(tokens: Sequence[str]) -> bool:
    """`a dog on a`."""
    return bool(tokens) and tokens[-1] in FUNCTION_WORDS


def repeats_a_word(tokens: Sequence[str]) -> bool:
    """`a dog dog runs`."""
    return any(first == second for first, second in pairwise(tokens))


def repeats_a_phrase(tokens: Sequence[str]) -> bool:
    """`a man with a red shirt and a red shirt`: three words or more, of which one is no function word, said again.

    Two words would be too few: people write `a boy and a girl in a field`, and `a red ball left of a red ring`.
    """
    seen: set[tuple[str, ...]] = set()
    for place in range(len(tokens) - 2):
        phrase = tuple(tokens[place : place + 3])
        if phrase in seen and not FUNCTION_WORDS.issuperset(phrase):
            return True
        seen.add(phrase)
    return False
