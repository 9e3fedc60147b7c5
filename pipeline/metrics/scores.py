"""All scores of one set of captions with their confidence intervals, and the comparison of two such sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.bootstrap import RESAMPLES, intervals, paired_differences
from pipeline.metrics.input_checks import check_pairs
from pipeline.metrics.metric import Floats, Metric
from pipeline.metrics.registry import METRICS, selected_metrics


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


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    meteor: bool = False,
) -> Scores:
    """Score a whole split: one hypothesis and at least one reference per image, as tokens joined with spaces.

    Raises `ValueError` unless there is one hypothesis and at least one reference per image, one image and one resample;
    `ParamsError` when METEOR is requested and not installed.
    """
    check_pairs(hypotheses, references)
    entries = selected_metrics(meteor=meteor)
    metrics = {name: entry.load() for name, entry in entries.items()}
    statistics = {name: metric.statistics(hypotheses, references) for name, metric in metrics.items()}
    images = len(hypotheses)
    names = [score for entry in entries.values() for score in entry.titles]
    scorer = _Scorer(metrics, {name: values.shape[1] for name, values in statistics.items()}, images)
    columns = np.column_stack(list(statistics.values()))
    corpus = scorer(columns.sum(axis=0))
    bounds = intervals(columns, scorer, seed=seed, resamples=resamples).tolist() if images > 1 else []
    return Scores(
        images=images,
        corpus=dict(zip(names, corpus.tolist(), strict=True)),
        intervals={name: (low, high) for name, (low, high) in zip(names, bounds, strict=bool(bounds))},
        per_image={
            list(entry.titles)[-1]: 100 * metrics[name].scores(statistics[name], 1)[:, -1]
            for name, entry in entries.items()
        },
        signatures={name: metric.signature(references) for name, metric in metrics.items() if metric.signature},
        statistics=statistics,
    )


def compare(first: Scores, second: Scores, *, seed: int, resamples: int = RESAMPLES) -> dict[str, Difference]:
    """`second` minus `first` in each score; image i of both must be the same, with the same references.

    Raises `ValueError` when the numbers of images differ.
    """
    metrics = {name: METRICS[name].load() for name in first.statistics}
    scorer = _Scorer(metrics, {name: values.shape[1] for name, values in first.statistics.items()}, first.images)
    one, other = (np.column_stack([scores.statistics[name] for name in metrics]) for scores in (first, second))
    rows = paired_differences(one, other, scorer, seed=seed, resamples=resamples).tolist()  # (M, 4)
    if first.images == 1:
        rows = [[difference, None, None, None] for difference, *_ in rows]
    return {name: Difference(*values) for name, values in zip(first.corpus, rows, strict=True)}


@dataclass(frozen=True)
class _Scorer:
    """Computes the scores of several metrics from their summed statistics side by side."""

    metrics: Mapping[str, Metric]
    widths: Mapping[str, int]
    """The number of statistics of each metric."""
    images: int

    def __call__(self, sums: Floats) -> Floats:
        """(..., K of all metrics) to scores times 100, (..., M of all metrics)."""
        ends = np.cumsum([self.widths[name] for name in self.metrics])
        parts = np.split(sums, ends[:-1], axis=-1)
        scores = [metric.scores(part, self.images) for metric, part in zip(self.metrics.values(), parts, strict=True)]
        return 100 * np.concatenate(scores, axis=-1)
