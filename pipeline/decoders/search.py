"""Options and results of beam search and sampling, shared by the torch search and the ONNX search.

This module imports neither torch nor numpy.
"""

from dataclasses import dataclass

from pipeline.errors import NumericError
from pipeline.tokens import BOS, PAD, UNK

NEVER_GENERATED = (PAD, BOS, UNK)
"""Tokens that no search generates."""
MAX_BEAM_SIZE = 100
"""Larger beams find no better captions (E. Cohen and J. C. Beck, 2019), and memory grows with the beam."""
MAX_LENGTH = 1000
"""Tokens of the longest caption that a search may be asked for."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of beam search; a beam of size 1 is greedy search. Raises `ValueError` for impossible values."""

    beam_size: int = 3
    """Number of hypotheses kept per image."""
    max_length: int = 30
    """Longest caption, in tokens."""
    length_penalty: float = 0.7
    """A hypothesis' score is its log-probability divided by its length to this power; 0 favors short captions."""
    min_length: int = 0
    """Shortest caption, in tokens. A caption may be shorter when no other token is allowed."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens occurs twice in a caption (R. Paulus et al., 2018); 0 allows all."""
    precision: str = "float32"
    """Precision of matrix products. "bfloat16" is faster on processors that support it and changes some captions."""

    def __post_init__(self) -> None:
        if min(self.beam_size, self.max_length) < 1:
            raise ValueError(f"beam_size {self.beam_size} and max_length {self.max_length} must be at least 1")
        if self.beam_size > MAX_BEAM_SIZE:
            raise ValueError(f"beam_size {self.beam_size} must be at most {MAX_BEAM_SIZE}")
        _check_max_length(self.max_length)
        if min(self.length_penalty, self.min_length, self.no_repeat_ngram) < 0:
            raise ValueError(
                f"length_penalty {self.length_penalty}, min_length {self.min_length} and no_repeat_ngram "
                f"{self.no_repeat_ngram} must not be negative"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} must not exceed max_length {self.max_length}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision {self.precision!r} must be float32 or bfloat16")


@dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling from the decoder's distribution. Raises `ValueError` for impossible values."""

    temperature: float = 1.0
    """Logits are divided by it: values below 1 favor likely tokens."""
    top_k: int = 0
    """Sample from this many most likely tokens only; 0 allows all."""
    top_p: float = 1.0
    """Sample from the most likely tokens that together have this probability (A. Holtzman et al., 2020)."""
    max_length: int = 30
    """Longest caption, in tokens."""
    seed: int = 0
    length_penalty: float = 0.7
    """As in `SearchOptions`; affects the reported score, not what is sampled."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length {self.max_length} must be at least 1")
        _check_max_length(self.max_length)
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} must be above 0")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must not be negative")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")


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


def _check_max_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise ValueError(f"max_length {length} must be at most {MAX_LENGTH}")


def require_hypotheses(found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Return `found` unchanged. Raises `NumericError` when an image has no hypothesis: no probability was finite."""
    if not all(found):
        raise not_finite()
    return found


def not_finite() -> NumericError:
    """The error of a decoder whose probabilities are NaN: weights or features overflow."""
    return NumericError("the decoder's probabilities are not finite, so there is no caption; train again")
