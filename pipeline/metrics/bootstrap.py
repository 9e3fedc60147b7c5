"""How sure a score is: the bootstrap over pictures, and its paired form for two systems (Koehn 2004).

A score is a function of sums over pictures: the mean of a per-picture score, or BLEU of summed counts. Each
resample draws as many pictures as there are, with replacement, and scores their sums. The draws depend on the
seed and the number of pictures alone: all scores of one set, and both systems of a pair, see the same ones.

    N pictures, K columns that are summed, B resamples, M scores
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95

Floats = NDArray[np.float64]
FromSums = Callable[[Floats], Floats]
"""Scores from sums: (..., K) to (..., M)."""


@dataclass(frozen=True, eq=False)
class Differences:
    """The second system's scores minus the first's; every array is (M,)."""

    difference: Floats
    low: Floats
    """Lower end of the 95% interval."""
    high: Floats
    p_value: Floats
    """Two-sided: how often chance alone gives at least so large a difference, in (0, 1]."""


def intervals(
    rows: NDArray[np.number],
    from_sums: FromSums,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Floats:
    """The 95% percentile interval of each score, (M, 2): low and high.

    `rows` is (N, K), `from_sums` makes scores of summed rows. Raises `ValueError` without rows or resamples.
    """
    return _percentiles(from_sums(resampled_sums(rows, seed=seed, resamples=resamples)))


def paired_differences(
    first: NDArray[np.number],
    second: NDArray[np.number],
    from_sums: FromSums,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Differences:
    """How much better `second` is than `first`, two systems on the same pictures, both (N, K).

    For the p-value the resampled differences are shifted to have no effect in the middle: it is the share of
    them, counting the observed one, that is at least as far from 0 as the observed difference. Raises
    `ValueError` when the shapes differ or there are no rows or resamples.
    """
    if first.shape != second.shape:
        raise ValueError(f"both systems must have the same pictures, got {first.shape} and {second.shape}")
    observed = from_sums(_sums(second)) - from_sums(_sums(first))  # (M,)
    of_first = from_sums(resampled_sums(first, seed=seed, resamples=resamples))
    of_second = from_sums(resampled_sums(second, seed=seed, resamples=resamples))
    resampled = of_second - of_first  # (B, M)
    as_large = np.abs(resampled - observed) >= np.abs(observed)
    low, high = _percentiles(resampled).T
    return Differences(observed, low, high, (as_large.sum(axis=0) + 1) / (resamples + 1))


def resampled_sums(rows: NDArray[np.number], *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Column sums of `rows` (N, K) over each resample of pictures, (B, K).

    Raises `ValueError` without rows or resamples.
    """
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"`rows` must be (pictures, columns), one picture or more, got {rows.shape}")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}")
    pictures, values = len(rows), rows.astype(np.float64)
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, values.shape[1]))
    for resample in sums:
        times_drawn = np.bincount(generator.integers(pictures, size=pictures), minlength=pictures)
        # einsum and not @: BLAS adds in another order with another number of threads.
        resample[:] = np.einsum("n,nk->k", times_drawn, values)
    return sums


def _sums(rows: NDArray[np.number]) -> Floats:
    total: Floats = rows.astype(np.float64).sum(axis=0)
    return total


def _percentiles(resampled: Floats) -> Floats:
    """(B, M) to (M, 2)."""
    tail = (1 - LEVEL) / 2
    return np.quantile(resampled, [tail, 1 - tail], axis=0).T
