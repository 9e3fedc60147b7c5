"""Checks of the input that all metrics share: hypothesis i belongs to the references of image i.

Captions are tokenized already: lower case, no punctuation, single spaces between tokens; "" is an empty caption. Lists
that are shifted or transposed would give plausible scores, so `scores.score` checks them before any metric is computed.
"""

from collections.abc import Sequence


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` unless every image has at least one reference, given as a sequence of captions."""
    if not references:
        raise ValueError("there are no images to score: `references` is empty")
    for index, captions in enumerate(references):
        if isinstance(captions, str):
            raise ValueError(f"references[{index}] must be a sequence of captions, got {captions!r}")
        if not captions:
            raise ValueError(f"references[{index}] is empty: an image without references cannot be scored")


def check_pairs(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` unless there is one hypothesis, and at least one reference, for every image."""
    check_lengths(len(hypotheses), len(references))
    check_references(references)


def check_lengths(hypotheses: int, images: int) -> None:
    """Raise `ValueError` unless there are as many hypotheses as images."""
    if hypotheses != images:
        raise ValueError(f"expected one hypothesis per image, got {hypotheses} for {images} images")
