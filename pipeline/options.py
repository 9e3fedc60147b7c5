"""Base class of option models, the options that params.yaml and the model share, and messages on invalid options."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Options(BaseModel):
    """A frozen, strictly typed set of options. Unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class RerankOptions(Options):
    """Re-ranking of beam hypotheses by the captions of similar training images."""

    neighbors: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Training images whose captions the hypotheses are compared with; 0: no re-ranking. Needs "
        "train.store_captions and vocab.unit: word",
    )
    weight: float = Field(
        default=4.0,
        ge=0,
        le=1000,
        description="Weight of the CIDEr-D against these captions, which is added to the score of a hypothesis",
    )


def first_error(error: ValidationError, *section: str) -> str:
    """One line with the first invalid key, prefixed with `section`, and what is allowed there."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, (*section, *first["loc"])))[:80]
    words = first["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should ", "must ")
    return f"{key}: {words}" if key else words
