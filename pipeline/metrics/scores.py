"""All scores of one set of captions, and how sure each is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.bleu import COLUMNS, bleu_from_statistics, bleu_statistics, corpus_bleu
from pipeline.metrics.bootstrap import RESAMPLES, intervals, paired_differences
from pipeline.metrics.cider import CiderD
from pipeline.metrics.meteor import meteor_from_statistics, meteor_statistics
from pipeline.metrics.rouge import rouge_l

SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l")
METEOR = "meteor"
"""The score that comes last, where it is asked for: it needs Java."""
NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "cider_d": "CIDEr-D",
    "rouge_l": "ROUGE-L",
    METEOR: "METEOR",
}
"""How people write them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one hypothesis per picture, all times 100. Compare them only over the same references."""

    pictures: int
    scores: dict[str, float]
    """The score of the whole set, in the order of `SCORES`."""
    intervals: dict[str, tuple[float, float]]
    """Low and high of the 95% bootstrap interval of each score."""
    per_image: dict[str, Floats]
    """`bleu_4`, `cider_d`, `rouge_l` and, with it, `meteor` of each picture, (N,). BLEU and METEOR of a set are not the
    means of these."""
    signature: str
    """sacrebleu's signature of BLEU."""
    rows: Floats
    """What the scores are made of, (N, 12): BLEU's ten counts, CIDEr-D and ROUGE-L of each picture. With METEOR,
    (N, 35): its 23 counts follow."""


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
    meteor: bool = False,
) -> Scores:
    """Score a whole split: one hypothesis and one to many references per picture, as tokens between spaces.

    Raises `ValueError` when the two do not have one entry per picture, a picture has no reference, or there
    are no pictures or no resamples; `ParamsError` when METEOR is asked for and cannot be had.
    """
    bleu, signature = corpus_bleu(hypotheses, references)
    counts = bleu_statistics(hypotheses, references)
    cider = CiderD(references).score(hypotheses)
    rouge = rouge_l(hypotheses, references)
    per_image = {"bleu_4": bleu_from_statistics(counts)[:, 3], "cider_d": cider, "rouge_l": rouge}
    corpus = [*bleu, cider.mean(), rouge.mean()]
    columns = [counts, cider, rouge]
    names = list(SCORES)
    if meteor:
        alignments = meteor_statistics(hypotheses, references)
        names.append(METEOR)
        columns.append(alignments)
        per_image[METEOR] = meteor_from_statistics(alignments)
        corpus.append(meteor_from_statistics(alignments.sum(axis=0)))
    rows = np.column_stack(columns).astype(np.float64)
    bounds = intervals(rows, lambda sums: _from_sums(sums, len(rows)), seed=seed, resamples=resamples)
    return Scores(
        pictures=len(rows),
        scores={name: 100 * float(value) for name, value in zip(names, corpus, strict=True)},
        intervals={name: (float(low), float(high)) for name, (low, high) in zip(names, bounds, strict=True)},
        per_image={name: 100 * values for name, values in per_image.items()},
        signature=signature,
        rows=rows,
    )


def compare(
    first: Scores,
    second: Scores,
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
    columns = np.column_stack([found.difference, found.low, found.high, found.p_value])  # (M, 4)
    return {name: Difference(*values) for name, values in zip(first.scores, columns.tolist(), strict=True)}


def _from_sums(sums: Floats, pictures: int) -> Floats:
    """The scores in their order, times 100, (..., M), from sums of `Scores.rows` (..., K)."""
    means = sums[..., COLUMNS : COLUMNS + 2] / pictures
    parts = [bleu_from_statistics(sums[..., :COLUMNS]), means]
    if sums.shape[-1] > COLUMNS + 2:
        parts.append(meteor_from_statistics(sums[..., COLUMNS + 2 :])[..., None])
    return 100 * np.concatenate(parts, axis=-1)
