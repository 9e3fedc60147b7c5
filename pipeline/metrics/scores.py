"""All scores of one set of captions with their confidence intervals, and the comparison of two such sets.

Intervals and p-values come from the bootstrap over images, which is paired for two systems (Koehn 2004). A score is a
function of statistics that are summed over images. Each resample draws N of the N images with replacement and scores
the sums. The draws depend only on the seed and on N, so all scores of a set and both systems of a pair use the same
resamples.

    N images, K statistics, B resamples, M scores
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import Floats, Metric
from pipeline.metrics.registry import METRICS

RESAMPLES = 1000
LEVEL = 0.95

FromSums = Callable[[Floats], Floats]
"""Scores from sums: (..., K) to (..., M)."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one hypothesis per image, all times 100. Compare them only over the same references."""

    images: int
    corpus: dict[str, float]
    """Each score of the whole set, in the order of the metrics' registry."""
    intervals: dict[str, tuple[float, float]]
    """Low and high end of each score's 95% bootstrap interval; empty for a single image, which has none."""
    per_image: dict[str, Floats]
    """One score of each metric for every image, (N,). The BLEU and METEOR of a set are not the means of these."""
    signatures: dict[str, str]
    """By metric, where it has one: a line that identifies its implementation."""
    statistics: dict[str, Floats]
    """By metric: its statistics of each image, (N, K)."""


@dataclass(frozen=True)
class Difference:
    """How much the second of two systems scores above the first, times 100."""

    difference: float
    low: float | None
    """Lower end of the 95% interval; None, as the other two, for a single image."""
    high: float | None
    p_value: float | None
    """Two-sided, from the paired bootstrap (Koehn 2004)."""


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, seed: int, meteor: bool = False) -> Scores:
    """Score a whole split: one hypothesis and at least one reference per image, as tokens joined with spaces.

    Raises `ParamsError` when METEOR is requested and not installed.
    """
    scores = Scores(len(hypotheses), corpus={}, intervals={}, per_image={}, signatures={}, statistics={})
    for name, entry in METRICS.items():
        if entry.optional and not meteor:
            continue
        metric = entry.load()
        statistics = scores.statistics[name] = metric.statistics(hypotheses, references)
        from_sums = _in_percent(metric, scores.images)
        scores.corpus.update(zip(entry.titles, from_sums(statistics.sum(axis=0)).tolist(), strict=True))
        if scores.images > 1:
            bounds = map(tuple, intervals(statistics, from_sums, seed=seed).tolist())
            scores.intervals.update(zip(entry.titles, bounds, strict=True))
        scores.per_image[list(entry.titles)[-1]] = _in_percent(metric, 1)(statistics)[:, -1]
        if metric.signature:
            scores.signatures[name] = metric.signature(references)
    return scores


def compare(first: Scores, second: Scores, *, seed: int) -> dict[str, Difference]:
    """`second` minus `first` in each score; image i of both must be the same, with the same references.

    Raises `ValueError` when the numbers of images differ.
    """
    found = {}
    for name, statistics in first.statistics.items():
        from_sums = _in_percent(METRICS[name].load(), first.images)
        rows = paired_differences(statistics, second.statistics[name], from_sums, seed=seed).tolist()  # (M, 4)
        for title, (difference, *bounds) in zip(METRICS[name].titles, rows, strict=True):
            found[title] = Difference(difference, *(bounds if first.images > 1 else (None, None, None)))
    return found


def _in_percent(metric: Metric, images: int) -> FromSums:
    """The metric's scores, times 100, from its statistics summed over a number of images."""
    return lambda sums: 100 * metric.scores(sums, images)


def intervals(statistics: Floats, from_sums: FromSums, *, seed: int) -> Floats:
    """The 95% percentile interval of each score, (M, 2): low and high.

    `statistics` is (N, K).
    """
    return _percentiles(from_sums(resampled_sums(statistics, seed=seed)))


def paired_differences(first: Floats, second: Floats, from_sums: FromSums, *, seed: int) -> Floats:
    """The scores of `second` minus those of `first`, two systems on the same images, both (N, K).

    Returns (M, 4): the difference, the low and the high end of its 95% interval, and its two-sided p-value. For the
    p-value the resampled differences are centered on zero, and the observed one is added to them. It is the share
    of these that are at least as far from zero as the observed one. Raises `ValueError` when the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"both systems must have the same images, got {first.shape} and {second.shape}")
    observed = from_sums(second.sum(axis=0)) - from_sums(first.sum(axis=0))  # (M,)
    first_scores, second_scores = (from_sums(resampled_sums(one, seed=seed)) for one in (first, second))
    resampled = second_scores - first_scores  # (B, M)
    at_least_as_far = np.abs(resampled - observed) >= np.abs(observed)
    p_values = (at_least_as_far.sum(axis=0) + 1) / (RESAMPLES + 1)
    return np.column_stack([observed, _percentiles(resampled), p_values])


def resampled_sums(statistics: Floats, *, seed: int) -> Floats:
    """Column sums of `statistics` (N, K) over each resample of images, (B, K)."""
    images = len(statistics)
    generator = np.random.default_rng(seed)
    sums = np.empty((RESAMPLES, statistics.shape[1]))
    for resample in sums:
        times_drawn = np.bincount(generator.integers(images, size=images), minlength=images)
        # einsum and not @: BLAS adds in another order with another number of threads.
        resample[:] = np.einsum("n,nk->k", times_drawn, statistics)
    return sums


def _percentiles(resampled: Floats) -> Floats:
    """(B, M) to (M, 2)."""
    tail = (1 - LEVEL) / 2
    return np.quantile(resampled, [tail, 1 - tail], axis=0).T
