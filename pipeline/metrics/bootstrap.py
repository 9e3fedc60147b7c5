"""Confidence intervals and p-values from the bootstrap over images, which is paired for two systems (Koehn 2004).

A score is a function of statistics that are summed over images. Each resample draws N of the N images with replacement
and scores the sums. The draws depend only on the seed and on N, so all scores of a set and both systems of a pair use
the same resamples.

    N images, K statistics, B resamples, M scores
"""

from collections.abc import Callable

import numpy as np

from pipeline.metrics.metric import Floats

RESAMPLES = 1000
LEVEL = 0.95
FEW_IMAGES = 20
"""Intervals of fewer images are too narrow: those of 8 images hold the true value in 89% of cases instead of 95%."""
_ROUNDING = 1e-9
"""Relative: resampled differences that are equal except for rounding are as far from zero as the observed one."""
_NEGLIGIBLE = 1e-4
"""Points of a score, which are printed with one decimal and written with four."""

FromSums = Callable[[Floats], Floats]
"""Scores from sums: (..., K) to (..., M)."""


def intervals(statistics: Floats, from_sums: FromSums, *, seed: int) -> Floats:
    """The 95% percentile interval of each score, (M, 2): low and high.

    `statistics` is (N, K).
    """
    return _percentiles(from_sums(resampled_sums(statistics, seed=seed)))


def paired_differences(first: Floats, second: Floats, from_sums: FromSums, *, seed: int) -> Floats:
    """The scores of `second` minus those of `first`, two systems on the same images, both (N, K).

    Returns (M, 4): the difference, the low and the high end of its 95% interval, and its two-sided p-value. For the
    p-value the resampled differences are centered on zero, and the observed one is added to them. It is the share
    of these that are at least as far from zero as the observed one, and at least 2^(1-N): where two equal systems
    differ on N images, the second one is better, or worse, on all of them with this probability. Raises `ValueError`
    when the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"both systems must have the same images, got {first.shape} and {second.shape}")
    observed = from_sums(second.sum(axis=0)) - from_sums(first.sum(axis=0))  # (M,)
    first_scores, second_scores = (from_sums(resampled_sums(one, seed=seed)) for one in (first, second))
    resampled = second_scores - first_scores  # (B, M)
    at_least_as_far = np.abs(resampled - observed) >= np.abs(observed) * (1 - _ROUNDING) - _NEGLIGIBLE
    p_values = np.maximum((at_least_as_far.sum(axis=0) + 1) / (RESAMPLES + 1), 2.0 ** (1 - len(first)))
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
