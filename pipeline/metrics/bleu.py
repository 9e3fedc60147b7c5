"""BLEU-1 to BLEU-4 of a whole split (Papineni et al. 2002), counted by sacrebleu and equal to coco-caption.

sacrebleu counts n-grams and picks the closest reference length, as coco-caption does. The two differ in the
last step only: where an order has no match, or no n-gram at all, sacrebleu gives 0 and coco-caption a small
number, because it adds `TINY` to every numerator and `SMALL` to every denominator. `bleu_from_statistics`
does as coco-caption does.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.input_checks import check_pairs

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU, BLEUScore

ORDERS = 4
TINY, SMALL = 1e-15, 1e-9
COLUMNS = 2 * ORDERS + 2
"""Matches of orders 1-4, n-grams of orders 1-4, length of the hypothesis, closest length of a reference."""


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> tuple[NDArray[np.float64], str]:
    """BLEU-1..4 of the whole set, (4,) between 0 and 1, and sacrebleu's signature for it.

    Raises `ValueError` when the two do not have one entry per picture or a picture has no reference.
    """
    check_pairs(hypotheses, references)
    metric = _metric()
    # sacrebleu takes streams (all first references, all second ones, ...). A picture with fewer references is
    # padded with None: "" would be a reference of length 0 and spoil the brevity penalty.
    streams = list(zip_longest(*references))
    # sacrebleu scores a wrong shape silently.
    assert all(len(stream) == len(hypotheses) for stream in streams)
    total = metric.corpus_score(hypotheses, streams)
    return bleu_from_statistics(np.array(_columns(total), np.int64)), str(metric.get_signature())


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """What BLEU is made of, for each picture: (N, 10) counts, in the order of `COLUMNS`.

    Their sum over any choice of pictures gives that choice's BLEU through `bleu_from_statistics`. Raises
    `ValueError` as `corpus_bleu` does.
    """
    check_pairs(hypotheses, references)
    # The effective order changes no count, only the sentence's own score, which is not used here.
    metric = _metric(effective_order=True)
    rows = (_columns(metric.sentence_score(*pair)) for pair in zip(hypotheses, references, strict=True))
    return np.array(list(rows), np.int64)


def bleu_from_statistics(statistics: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1..4 between 0 and 1, (..., 4), from summed statistics (..., 10).

    The leading axes are free: one set, or many resamples of it. On the rows of single pictures it is
    coco-caption's BLEU of each picture. Raises `ValueError` for another number of columns.
    """
    if statistics.shape[-1:] != (COLUMNS,):
        raise ValueError(f"`statistics` must have {COLUMNS} columns, got shape {statistics.shape}")
    matches, ngrams = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    precisions = (matches + TINY) / (ngrams + SMALL)  # (..., 4)
    geometric_means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (statistics[..., -2] + TINY) / (statistics[..., -1] + SMALL)
    brevity_penalty = np.exp(np.minimum(0, 1 - 1 / ratio))  # (...,)
    return np.asarray(geometric_means * brevity_penalty[..., None], np.float64)


def _metric(*, effective_order: bool = False) -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="none", smooth_method="none", force=True, effective_order=effective_order)


def _columns(score: "BLEUScore") -> list[int]:
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]
