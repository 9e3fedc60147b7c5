"""The decoders by name. A new one is a module in this folder and one line in `DECODERS`.

This module imports neither torch nor a decoder, so that params.py may read the options from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from pipeline.options import Options

if TYPE_CHECKING:
    from pipeline.decoders.decoder import Decoder

Width = Annotated[int, Field(ge=1, le=16_384)]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]


class DecoderOptions(Options):
    """Options of every decoder."""

    kind: str
    embed: Width = Field(128, description="Width of the token embeddings")
    hidden: Width = Field(256, description="Width of the LSTM's hidden state")
    feature_dropout: DropoutRate = Field(0.1, description="Dropout rate of the normalized image features")
    embedding_dropout: DropoutRate = Field(0.1, description="Dropout rate of the token embeddings")
    output_dropout: DropoutRate = Field(0.1, description="Dropout rate of the input of the output layer")


class AttentionOptions(DecoderOptions):
    """Options of a decoder with additive attention."""

    attention: Width = Field(128, description="Width of the hidden layer that computes attention scores")


@dataclass(frozen=True)
class DecoderKind:
    """One decoder: its class as `package.module:attribute`, its options and a summary for the documentation."""

    path: str
    options: type[DecoderOptions]
    summary: str


def _kind(kind: str, path: str, summary: str, options: type[DecoderOptions] = DecoderOptions) -> DecoderKind:
    """A `DecoderKind` whose options accept only this value of `kind`, as a discriminated union needs."""
    field: Any = (Literal[kind], Field(kind, description=summary))
    named = create_model(f"{kind.capitalize()}Options", __base__=options, __doc__=options.__doc__, kind=field)
    return DecoderKind(path, named, summary)


DECODERS: dict[str, DecoderKind] = {
    decoder.options.model_fields["kind"].default: decoder
    for decoder in (
        _kind("inject", "pipeline.decoders.inject:Inject", "the image is the LSTM's first input (Show and Tell)"),
        _kind("merge", "pipeline.decoders.merge:Merge", "image and text meet after the LSTM, before the softmax"),
        _kind(
            "attention",
            "pipeline.decoders.attention:Attention",
            "soft attention over the regions before each token (Show, Attend and Tell)",
            AttentionOptions,
        ),
        _kind(
            "updown",
            "pipeline.decoders.updown:UpDown",
            "one LSTM for attention, another for language (Bottom-Up and Top-Down)",
            AttentionOptions,
        ),
    )
}


def make_decoder(
    params: Mapping[str, Any], *, vocabulary: int, regions: int, channels: int, padded: bool = False
) -> "Decoder":
    """Build an untrained decoder for features (N, regions, channels) and `vocabulary` tokens.

    With `padded`, regions of zeros are padding: they get no attention and do not count in means.

    `params` is the decoder section of params.yaml: `kind` and options of that kind; options left out have their
    defaults. Raises `ValueError` for an unknown kind, an unknown option or a value that is not allowed.
    """
    from pipeline.decoders.decoder import Sizes

    if params.get("kind") not in DECODERS:
        raise ValueError(f"decoder.kind must be one of {', '.join(DECODERS)}, got {params.get('kind')!r}")
    entry = DECODERS[params["kind"]]
    module, name = entry.path.split(":")
    sizes = Sizes(vocabulary=vocabulary, regions=regions, channels=channels, padded=padded)
    decoder: Decoder = getattr(import_module(module), name)(entry.options.model_validate(dict(params)), sizes)
    return decoder
