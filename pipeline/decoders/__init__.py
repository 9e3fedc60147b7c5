"""The decoders by name. To add one: a file here that implements `protocol.Decoder`, and a line below."""

from collections.abc import Mapping
from typing import Any

from pipeline.decoders.attention import Attention
from pipeline.decoders.decoder import BOS, EOS, PAD, UNK, Decoder, DecoderConfig
from pipeline.decoders.inject import Inject
from pipeline.decoders.merge import Merge
from pipeline.decoders.updown import UpDown

__all__ = ["BOS", "EOS", "KINDS", "PAD", "UNK", "Decoder", "make_decoder"]

KINDS: dict[str, type[Inject | Merge | Attention | UpDown]] = {
    "inject": Inject,
    "merge": Merge,
    "attention": Attention,
    "updown": UpDown,
}


def make_decoder(params: Mapping[str, Any], *, vocabulary: int, regions: int, channels: int) -> Decoder:
    """An untrained decoder for features (N, regions, channels) and `vocabulary` tokens; `params` as in params.yaml."""
    sizes = {name: value for name, value in params.items() if name != "kind"}
    if params["kind"] not in KINDS:
        raise ValueError(f"`kind` must be one of {{{', '.join(KINDS)}}}, got {params['kind']!r}")
    return KINDS[params["kind"]](DecoderConfig(vocabulary=vocabulary, regions=regions, channels=channels, **sizes))
