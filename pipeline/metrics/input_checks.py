"""The one input form of every score: caption i of the hypotheses beside all references of picture i.

Captions are tokenised, lower-cased and free of punctuation already, with single spaces between tokens; "" is
an empty caption. A score computed over lists that are shifted or transposed looks like any other number, so
every score checks its input here first.
"""

from collections.abc import Sequence


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` unless every picture has at least one reference, given as a sequence of captions."""
    if not references:
        raise ValueError("there are no pictures to score: `references` is empty")
    for index, captions in enumerate(references):
        if isinstance(captions, str):
            raise ValueError(f"references[{index}] must be a sequence of captions, got {captions!r}")
        if not captions:
            raise ValueError(f"references[{index}] is empty: a picture without references cannot be scored")


def check_pairs(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` unless there is one hypothesis, and at least one reference, for every picture."""
    check_lengths(len(hypotheses), len(references))
    check_references(references)


def check_lengths(hypotheses: int, pictures: int) -> None:
    """Raise `ValueError` unless there are as many hypotheses as pictures."""
    if hypotheses != pictures:
        raise ValueError(f"expected one hypothesis per picture, got {hypotheses} for {pictures} pictures")
