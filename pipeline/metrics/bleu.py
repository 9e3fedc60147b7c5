"""BLEU-1 to BLEU-4 (Papineni et al. 2002), counted by sacrebleu and equal to coco-caption.

sacrebleu counts n-grams and picks the closest reference length, as coco-caption does. They differ in the last step:
where an order has no match or no n-gram at all, sacrebleu gives 0 and coco-caption a small number, because it adds
`TINY` to every numerator and `SMALL` to every denominator. `bleu_scores` follows coco-caption.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from pipeline.metrics.metric import Floats, Metric

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

ORDERS = 4
TINY, SMALL = 1e-15, 1e-9


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """The counts that BLEU is made of, for each image (N, 10): matches and n-grams of orders 1-4, length of the
    hypothesis, closest length of a reference."""
    # The effective order changes no count, only the score of a sentence, which is not used here.
    metric = _sacrebleu(effective_order=True)
    results = (metric.sentence_score(*pair) for pair in zip(hypotheses, references, strict=True))
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in results], np.float64)


def bleu_scores(sums: Floats, images: int = 1) -> Floats:
    """BLEU-1..4 between 0 and 1, (..., 4), from summed statistics (..., 10); the number of images does not matter."""
    matches, ngrams = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    precisions = (matches + TINY) / (ngrams + SMALL)  # (..., 4)
    geometric_means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[..., -2] + TINY) / (sums[..., -1] + SMALL)
    brevity_penalty = np.exp(np.minimum(0, 1 - 1 / ratio))  # (...,)
    return np.asarray(geometric_means * brevity_penalty[..., None], np.float64)


def bleu_signature(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's signature of the BLEU of a set with these references."""
    # It depends on the references through their number alone, so two images stand for all.
    extremes = [min(references, key=len), max(references, key=len)]
    metric = _sacrebleu()
    # sacrebleu takes streams: all first references, all second ones, and so on. None pads a shorter list.
    metric.corpus_score(["", ""], list(zip_longest(*extremes)))
    return str(metric.get_signature())


BLEU = Metric(bleu_statistics, bleu_scores, bleu_signature)


def _sacrebleu(*, effective_order: bool = False) -> "SacreBleu":
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

    return SacreBleu(tokenize="none", smooth_method="none", force=True, effective_order=effective_order)
