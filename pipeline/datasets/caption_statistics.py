"""What a dataset's captions are like: how many, how long, of how many words, and how much of it is said twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from pipeline.text.ptb_tokenizer import tokenize

Item = TypeVar("Item", str, tuple[str, ...])

MIN_COUNTS = (1, 2, 3, 4, 5, 8, 10, 20)
"""Values of `params.vocab.min_count` that are tried."""
GROWTH_POINTS = 20
FREQUENT = 30


@dataclass(frozen=True)
class VocabularyCoverage:
    """The vocabulary that one `min_count` gives."""

    min_count: int
    words: int
    of_split: dict[str, float]
    """The share of each split's running words that are in it."""


@dataclass(frozen=True)
class CaptionStatistics:
    """Of all splits together, where nothing else is said. Lengths are in tokens."""

    pictures: dict[str, int]
    """By split."""
    captions: dict[str, int]
    """By split."""
    per_image: dict[int, int]
    """Pictures by their number of captions."""
    lengths: dict[int, int]
    """Captions by their length."""
    words: int
    """Running words."""
    distinct_words: int
    once: int
    """Words that are used once."""
    growth: tuple[tuple[int, int], ...]
    """(captions read, distinct words in them), in the dataset's order."""
    coverage: tuple[VocabularyCoverage, ...]
    """Of vocabularies from the train split."""
    frequent: tuple[tuple[str, int], ...]
    repeated: int
    """Captions, compared as tokens, that stand in the dataset before."""
    repeated_across_splits: int
    """Distinct captions of the train split that val or test have too."""
    most_repeated: tuple[tuple[str, int], ...]


def caption_statistics(splits: Mapping[str, Mapping[str, Sequence[str]]]) -> CaptionStatistics:
    """From the captions of each picture of each split. Raises `ValueError` without a caption."""
    tokens = {
        split: [[tuple(tokenize(text)) for text in texts] for texts in pictures.values()]
        for split, pictures in splits.items()
    }
    flat = {split: list(chain.from_iterable(pictures)) for split, pictures in tokens.items()}
    everything = list(chain.from_iterable(flat.values()))
    if not everything:
        raise ValueError("there are no captions to look at")
    counts = Counter(chain.from_iterable(everything))
    times = Counter(everything)
    outside_train = set(chain.from_iterable(flat[split] for split in flat if split != "train"))
    return CaptionStatistics(
        pictures={split: len(pictures) for split, pictures in tokens.items()},
        captions={split: len(captions) for split, captions in flat.items()},
        per_image=_sorted(Counter(len(texts) for pictures in tokens.values() for texts in pictures)),
        lengths=_sorted(Counter(map(len, everything))),
        words=counts.total(),
        distinct_words=len(counts),
        once=sum(count == 1 for count in counts.values()),
        growth=_growth(everything),
        coverage=_coverage(flat),
        frequent=_most(counts, FREQUENT),
        repeated=len(everything) - len(times),
        repeated_across_splits=len(outside_train & set(flat.get("train", ()))),
        most_repeated=tuple((" ".join(caption), count) for caption, count in _most(times, 5) if count > 1),
    )


def _sorted(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items()))


def _most(counts: Counter[Item], number: int) -> tuple[tuple[Item, int], ...]:
    """The most common, equal ones by their own order (`most_common` leaves it to chance of reading)."""
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:number])


def _growth(captions: Sequence[tuple[str, ...]]) -> tuple[tuple[int, int], ...]:
    seen: set[str] = set()
    wanted = {max(1, len(captions) * point // GROWTH_POINTS) for point in range(1, GROWTH_POINTS + 1)}
    points = []
    for number, caption in enumerate(captions, start=1):
        seen.update(caption)
        if number in wanted:
            points.append((number, len(seen)))
    return tuple(points)


def _coverage(flat: Mapping[str, Sequence[tuple[str, ...]]]) -> tuple[VocabularyCoverage, ...]:
    train = Counter(chain.from_iterable(flat.get("train", ())))
    running = {split: Counter(chain.from_iterable(captions)) for split, captions in flat.items()}
    found = []
    for min_count in MIN_COUNTS:
        known = {word for word, count in train.items() if count >= min_count}
        of_split = {
            split: sum(count for word, count in words.items() if word in known) / max(1, words.total())
            for split, words in running.items()
            if words
        }
        found.append(VocabularyCoverage(min_count, len(known), of_split))
    return tuple(found)
