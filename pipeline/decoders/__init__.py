"""The decoders by name. To add one: a file here that implements `protocol.Decoder`, and a line below."""

from collections.abc import Mapping
from typing import Any

from pipeline.decoders.attention import Attention
from pipeline.decoders.inject import Inject
from pipeline.decoders.protocol import BOS, EOS, PAD, UNK, Decoder

__all__ = ["BOS", "EOS", "PAD", "UNK", "Decoder", "make_decoder"]


def make_decoder(params: Mapping[str, Any], *, vocabulary: int, regions: int, channels: int) -> Decoder:
    """An untrained decoder for features (N, regions, channels) and `vocabulary` tokens; `params` as in params.yaml."""
    kind, embed, hidden, dropout = (params[name] for name in ("kind", "embed", "hidden", "dropout"))
    if kind == "inject":
        return Inject(vocabulary=vocabulary, channels=channels, embed=embed, hidden=hidden, dropout=dropout)
    if kind == "attention":
        return Attention(
            vocabulary=vocabulary,
            regions=regions,
            channels=channels,
            embed=embed,
            hidden=hidden,
            attention=params["attention"],
            dropout=dropout,
        )
    raise ValueError(f"`kind` must be one of {{'inject', 'attention'}}, got {kind!r}")
