"""ROUGE-L (Lin 2004): how much of a caption and its references is one common subsequence; as coco-caption."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.input_checks import check_pairs

BETA = 1.2
"""Weight of recall against precision in coco-caption."""


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """ROUGE-L of each picture, (N,) between 0 and 1; the score of a set is their mean.

    Precision and recall are the best over the references, each by itself, as in coco-caption. Raises
    `ValueError` when the two do not have one entry per picture or a picture has no reference.
    """
    check_pairs(hypotheses, references)
    return np.array([_score(*pair) for pair in zip(hypotheses, references, strict=True)])


def _score(hypothesis: str, references: Sequence[str]) -> float:
    # Splitting at " " makes "" a caption of one empty token, as in coco-caption: no division by zero, and an
    # empty hypothesis scores 0 unless a reference is empty as well.
    tokens = hypothesis.split(" ")
    places: dict[str, int] = {}  # token -> bit set of its places in the hypothesis
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        reference_tokens = reference.split(" ")
        common = _common_subsequence(places, len(tokens), reference_tokens)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(reference_tokens))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_subsequence(places: dict[str, int], length: int, tokens: Sequence[str]) -> int:
    """Length of the longest common subsequence, one addition per token (bit-parallel: Hyyrö 2004).

    A cleared bit of `open_places` is a place of the hypothesis where the subsequence so far grows by one.
    """
    full = (1 << length) - 1
    open_places = full
    for token in tokens:
        matched = open_places & places.get(token, 0)
        open_places = ((open_places + matched) | (open_places - matched)) & full
    return length - open_places.bit_count()
