"""The interface of a metric: statistics of single images, and scores from their sums.

Every metric is computed in two steps, so that the bootstrap can resample images without scoring captions again.

    N images, K statistics, M scores
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistics = Callable[[Sequence[str], Sequence[Sequence[str]]], Floats]
"""Tokenized hypotheses (N,) and the references of each image (N, one to many) to statistics (N, K)."""


@dataclass(frozen=True)
class Metric:
    """A metric as two functions.

    Captions are tokens joined with single spaces. Every image has a hypothesis and at least one reference.
    """

    statistics: Statistics
    scores: Callable[[Floats, int], Floats]
    """Statistics summed over a number of images, (..., K), to scores, (..., M): up to 1, or 10 for CIDEr-D."""
    signature: Callable[[Sequence[Sequence[str]]], str] | None = None
    """A line that identifies the implementation, given the references; None where there is no convention for it."""


def mean_metric(score: Statistics) -> Metric:
    """A metric whose score of a set is the mean of its scores of single images (N,)."""

    def statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        return score(hypotheses, references)[:, None]

    def scores(sums: Floats, images: int) -> Floats:
        return sums / images

    return Metric(statistics, scores)
