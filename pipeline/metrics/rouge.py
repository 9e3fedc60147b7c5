"""ROUGE-L (Lin 2004): the longest common subsequence of a caption and its references; equal to coco-caption."""

from collections.abc import Sequence

import numpy as np

from pipeline.metrics.metric import Floats, mean_metric

BETA = 1.2
"""Weight of recall against precision, as in coco-caption."""


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """ROUGE-L of each image, (N,) between 0 and 1; the score of a set is their mean.

    Precision and recall are each the maximum over the references, as in coco-caption.
    """
    return np.array([_score(*pair) for pair in zip(hypotheses, references, strict=True)])


ROUGE_L = mean_metric(rouge_l)


def _score(hypothesis: str, references: Sequence[str]) -> float:
    # As in coco-caption, splitting at " " makes "" a caption of one empty token. That avoids a division by zero, and
    # an empty hypothesis scores 0 unless a reference is empty as well.
    tokens = hypothesis.split(" ")
    positions: dict[str, int] = {}  # token -> bit set of its positions in the hypothesis
    for position, token in enumerate(tokens):
        positions[token] = positions.get(token, 0) | 1 << position
    precision = recall = 0.0
    for reference in references:
        reference_tokens = reference.split(" ")
        common = _common_subsequence(positions, len(tokens), reference_tokens)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(reference_tokens))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_subsequence(positions: dict[str, int], length: int, tokens: Sequence[str]) -> int:
    """Length of the longest common subsequence, with one addition per token (bit-parallel; Hyyrö 2004).

    A cleared bit of `unmatched` is a position of the hypothesis at which the subsequence so far grows by one.
    """
    full = (1 << length) - 1
    unmatched = full
    for token in tokens:
        matched = unmatched & positions.get(token, 0)
        unmatched = ((unmatched + matched) | (unmatched - matched)) & full
    return length - unmatched.bit_count()
