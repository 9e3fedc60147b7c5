"""All scores of one set of captions with their confidence intervals, and the comparison of two such sets.

N images, K statistics, M scores
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics.bootstrap import FromSums, intervals, paired_differences
from pipeline.metrics.metric import Floats, Metric
from pipeline.metrics.registry import METRICS


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
