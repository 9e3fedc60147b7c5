"""All scores of one set of captions, how sure each is, and whether the captions are worth scoring at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.bleu import bleu_from_statistics, bleu_statistics, corpus_bleu
from pipeline.metrics.bootstrap import RESAMPLES, intervals, paired_differences
from pipeline.metrics.cider import CiderD
from pipeline.metrics.rouge import rouge_l

SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l")

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

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scorecard:
    """The scores of one hypothesis per picture, all times 100. Compare them only over the same references."""

    pictures: int
    scores: dict[str, float]
    """The score of the whole set, in the order of `SCORES`."""
    intervals: dict[str, tuple[float, float]]
    """Low and high of the 95% bootstrap interval of each score."""
    per_picture: dict[str, Floats]
    """`bleu_4`, `cider_d` and `rouge_l` of each picture, (N,). BLEU of a set is not the mean of these."""
    signature: str
    """sacrebleu's signature of BLEU."""
    rows: Floats
    """What the scores are made of, (N, 12): BLEU's ten counts, CIDEr-D and ROUGE-L of each picture."""


@dataclass(frozen=True)
class Difference:
    """How much the second of two systems scores above the first, times 100."""

    difference: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    p_value: float
    """Two-sided, by the paired bootstrap (Koehn 2004)."""


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Scorecard:
    """Score a whole split: one hypothesis and one to many references per picture, as tokens between spaces.

    Raises `ValueError` when the two do not have one entry per picture, a picture has no reference, or there
    are no pictures or no resamples.
    """
    bleu, signature = corpus_bleu(hypotheses, references)
    counts = bleu_statistics(hypotheses, references)
    cider = CiderD(references).score(hypotheses)
    rouge = rouge_l(hypotheses, references)
    corpus = 100 * np.array([*bleu, cider.mean(), rouge.mean()])
    rows = np.column_stack([counts, cider, rouge]).astype(np.float64)
    bounds = intervals(rows, lambda sums: _from_sums(sums, len(rows)), seed=seed, resamples=resamples)
    return Scorecard(
        pictures=len(rows),
        scores=dict(zip(SCORES, corpus.tolist(), strict=True)),
        intervals={name: (float(low), float(high)) for name, (low, high) in zip(SCORES, bounds, strict=True)},
        per_picture={
            "bleu_4": 100 * bleu_from_statistics(counts)[:, 3],
            "cider_d": 100 * cider,
            "rouge_l": 100 * rouge,
        },
        signature=signature,
        rows=rows,
    )


def compare(
    first: Scorecard,
    second: Scorecard,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """`second` minus `first` in each score; picture i of both must be the same, with the same references.

    Raises `ValueError` when the numbers of pictures differ.
    """
    found = paired_differences(
        first.rows,
        second.rows,
        lambda sums: _from_sums(sums, first.pictures),
        seed=seed,
        resamples=resamples,
    )
    columns = np.column_stack([found.difference, found.low, found.high, found.p_value])  # (6, 4)
    return {name: Difference(*values) for name, values in zip(SCORES, columns.tolist(), strict=True)}


def degeneracy(hypotheses: Sequence[str], vocabulary_size: int | None) -> dict[str, float]:
    """Signs that a captioner repeats itself or stops early; shares are between 0 and 1, lengths in tokens.

    `vocabulary_used` is left out when `vocabulary_size` is None: a file of captions has no vocabulary. Raises
    `ValueError` without captions or for a vocabulary without words.
    """
    if not hypotheses:
        raise ValueError("there are no captions to look at: `hypotheses` is empty")
    if vocabulary_size is not None and vocabulary_size < 1:
        raise ValueError(f"`vocabulary_size` must be at least 1, got {vocabulary_size}")
    captions = [caption.split() for caption in hypotheses]
    words = {word for caption in captions for word in caption}
    share_used = {} if vocabulary_size is None else {"vocabulary_used": len(words) / vocabulary_size}
    return {
        "distinct_captions": len(set(map(tuple, captions))) / len(captions),
        "distinct_words": float(len(words)),
        **share_used,
        "mean_length": sum(map(len, captions)) / len(captions),
        "empty_captions": captions.count([]) / len(captions),
        "ends_in_function_word": sum(c[-1] in FUNCTION_WORDS for c in captions if c) / len(captions),
        "repeated_word": sum(any(a == b for a, b in pairwise(c)) for c in captions) / len(captions),
    }


def _from_sums(sums: Floats, pictures: int) -> Floats:
    """The scores in the order of `SCORES`, times 100, (..., 6), from sums of `Scorecard.rows` (..., 12)."""
    return 100 * np.concatenate([bleu_from_statistics(sums[..., :-2]), sums[..., -2:] / pictures], axis=-1)
