"""Options and results of beam search and sampling, shared by the torch search and the ONNX search.

This module imports neither torch nor numpy.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
from pydantic import ConfigDict, Field

from pipeline.decoders.limits import MAX_BEAM_SIZE, MAX_LENGTH
from pipeline.errors import NumericError
from pipeline.tokens import BOS, PAD, UNK

NEVER_GENERATED = (PAD, BOS, UNK)
"""Tokens that no search generates."""

_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
MaxLength = Annotated[int, Field(ge=1, le=MAX_LENGTH)]
LengthPenalty = Annotated[float, Field(ge=0, le=10)]
NotNegative = Annotated[int, Field(ge=0)]


@pydantic.dataclasses.dataclass(frozen=True, config=_CHECKED)
class SearchOptions:
    """Options of beam search; a beam of size 1 is greedy search. Raises `ValueError` for impossible values."""

    beam_size: Annotated[int, Field(ge=1, le=MAX_BEAM_SIZE)] = 5
    """Number of hypotheses kept per image."""
    max_length: MaxLength = 30
    """Longest caption, in tokens."""
    length_penalty: LengthPenalty = 1.0
    """A hypothesis' score is its log-probability divided by its length to this power; 0 favors short captions."""
    no_repeat_ngram: NotNegative = 0
    """No sequence of this many tokens occurs twice in a caption (R. Paulus et al., 2018); 0 allows all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products. "bfloat16" is faster on processors that support it and changes some captions."""


@pydantic.dataclasses.dataclass(frozen=True, config=_CHECKED)
class SamplingOptions:
    """Options of sampling from the decoder's distribution. Raises `ValueError` for impossible values."""

    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Logits are divided by it: values below 1 favor likely tokens."""
    top_k: NotNegative = 0
    """Sample from this many most likely tokens only; 0 allows all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens that together have this probability (A. Holtzman et al., 2020)."""
    max_length: MaxLength = 30
    """Longest caption, in tokens."""
    seed: int = 0
    length_penalty: LengthPenalty = 1.0
    """As in `SearchOptions`; affects the reported score, not what is sampled."""


@dataclass(frozen=True)
class Hypothesis:
    """A caption that a search generated."""

    tokens: tuple[int, ...]
    """Without BOS and EOS."""
    log_probability: float
    """Of all tokens including EOS."""
    score: float
    """`log_probability` divided by the length, EOS included, to the power of the length penalty."""
    attention: tuple[tuple[float, ...], ...] | None = None
    """Attention weights over the regions for each token; None if not asked for or the decoder has no attention."""
    agreement: float | None = None
    """CIDEr-D (0 to 10) against the captions of similar training images; None without re-ranking."""


def not_finite() -> NumericError:
    """The error of a decoder whose probabilities are NaN: weights or features overflow."""
    return NumericError("the decoder's probabilities are not finite, so there is no caption; train again")
