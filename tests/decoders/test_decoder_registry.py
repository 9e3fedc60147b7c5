"""The registry names every decoder, its options and its class."""

from typing import get_args

import pytest

from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import DECODERS, make_decoder

SIZES = {"vocabulary": 9, "regions": 4, "channels": 6}


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_can_be_built_from_its_defaults(kind):
    decoder = make_decoder({"kind": kind}, **SIZES)
    assert isinstance(decoder, Decoder)
    assert decoder.hidden == DECODERS[kind].options().hidden


@pytest.mark.parametrize("kind", DECODERS)
def test_the_options_of_a_kind_accept_no_other_kind(kind):
    field = DECODERS[kind].options.model_fields["kind"]
    assert get_args(field.annotation) == (kind,)
    assert field.description == DECODERS[kind].summary


@pytest.mark.parametrize("kind", DECODERS)
def test_every_option_has_a_default_and_a_description(kind):
    for field in DECODERS[kind].options.model_fields.values():
        assert field.description
        assert not field.is_required()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "transformer"}, f"decoder.kind must be one of {', '.join(DECODERS)}"),
        ({}, "decoder.kind must be one of"),
        ({"kind": "inject", "attention": 8}, "attention"),
        ({"kind": "merge", "hidden": 0}, "hidden"),
        ({"kind": "merge", "output_dropout": 1.0}, "output_dropout"),
    ],
)
def test_wrong_params_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        make_decoder(params, **SIZES)
