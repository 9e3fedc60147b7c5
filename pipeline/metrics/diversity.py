"""Statistics that show whether a captioner describes its images or repeats safe sentences.

Scores do not show it: one sentence for every image can reach a fair BLEU. Compare these statistics with those of the
references.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
"""An English caption that ends in one of these words is unfinished."""


TITLES = {
    "distinct_captions": "distinct captions",
    "most_common_caption": "images with the most common caption",
    "ends_in_function_word": "captions that end in a function word",
    "repeated_word": "captions with a word twice in a row",
    "repeated_phrase": "captions with a repeated phrase of three words",
    "empty_captions": "empty captions",
    "vocabulary_used": "vocabulary used",
    "distinct_words": "distinct {unit}",
    "mean_length": "{unit} per caption",
}
"""The title of each statistic, in the order in which they are shown."""
OF_WORDS = ("ends_in_function_word", "repeated_word", "repeated_phrase")
"""Statistics that mean nothing in captions of characters."""


def diversity(hypotheses: Sequence[str], vocabulary_size: int | None = None) -> dict[str, float]:
    """The statistics of `TITLES` for captions given as tokens joined with spaces.

    `distinct_words` is a number, `mean_length` is in tokens, all others are shares between 0 and 1. Without a
    `vocabulary_size`, `vocabulary_used` is left out.
    """
    captions = [tuple(caption.split()) for caption in hypotheses]
    counts = Counter(captions)
    words = {word for caption in captions for word in caption}
    vocabulary_used = {} if vocabulary_size is None else {"vocabulary_used": len(words) / vocabulary_size}
    return {
        "distinct_captions": len(counts) / len(captions),
        "most_common_caption": counts.most_common(1)[0][1] / len(captions),
        "distinct_words": float(len(words)),
        **vocabulary_used,
        "mean_length": sum(map(len, captions)) / len(captions),
        "empty_captions": captions.count(()) / len(captions),
        "ends_in_function_word": sum(map(ends_in_function_word, captions)) / len(captions),
        "repeated_word": sum(map(repeats_a_word, captions)) / len(captions),
        "repeated_phrase": sum(map(repeats_a_phrase, captions)) / len(captions),
    }


def diversity_rows(
    captions: Mapping[str, float], references: Mapping[str, float], unit: str
) -> list[tuple[str, str, str]]:
    """Rows of a table: the title of each statistic of the captions, and its values for the captions and, where there
    is one, for the references. `unit` is what the tokens are: words or characters."""
    names = [name for name in TITLES if name in captions and (unit == "words" or name not in OF_WORDS)]
    return [
        (
            TITLES[name].format(unit=unit),
            formatted(name, captions[name]),
            formatted(name, references[name]) if name in references else "",
        )
        for name in names
    ]


def formatted(name: str, value: float) -> str:
    """A statistic of `TITLES` as text: a number of words or a percentage."""
    return {"distinct_words": f"{value:,.0f}", "mean_length": f"{value:.1f}"}.get(name, f"{value:.1%}")


def ends_in_function_word(tokens: Sequence[str]) -> bool:
    """Whether the caption stops early, as in `a dog on a`."""
    return bool(tokens) and tokens[-1] in FUNCTION_WORDS


def repeats_a_word(tokens: Sequence[str]) -> bool:
    """Whether a word stands twice in a row, as in `a dog dog runs`."""
    return any(first == second for first, second in pairwise(tokens))


def repeats_a_phrase(tokens: Sequence[str]) -> bool:
    """Whether three words, not all function words, occur twice, as in `a man with a red shirt and a red shirt`.

    Two words would be too few: people write `a boy and a girl in a field`.
    """
    seen: set[tuple[str, ...]] = set()
    for start in range(len(tokens) - 2):
        phrase = tuple(tokens[start : start + 3])
        if phrase in seen and not FUNCTION_WORDS.issuperset(phrase):
            return True
        seen.add(phrase)
    return False
