"""Every decoder computes the equations of its paper, written out here token by token, with dropout where documented."""

import pytest
import torch
from torch import nn

from pipeline.decoders.registry import DECODERS
from pipeline.tokens import BOS

V, R, C, E, H = 11, 4, 6, 12, 16
PLACES = ("feature_dropout", "embedding_dropout", "output_dropout")


@pytest.fixture
def build(small_decoder):
    """A decoder with parameters large enough, biases included, for every nonlinearity to matter."""

    def build(kind, **dropout):
        decoder = small_decoder(kind, vocabulary=V, regions=R, channels=C, std=0.5, **dropout)
        decoder.normalize.fit([2 * torch.randn(9, R, C) + 1])
        return decoder

    return build


def inputs():
    tokens = torch.randint(4, V, (5, 7), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = BOS
    return torch.randn(5, R, C, generator=torch.Generator().manual_seed(2)), tokens


def linear(layer, x):
    """Compute W x + b."""
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def lstm(gates, c):
    i, f, g, o = gates.split(H, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def torch_lstm(layer, x, h, c):
    gates = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T + layer.bias_hh_l0
    return lstm(gates, c)


def attend(layer, values, h):
    """Compute the sum of the regions, weighted by the softmax of w tanh(W_key value + W_query h)."""
    scores = [linear(layer.score, (linear(layer.key, one) + linear(layer.query, h)).tanh()) for one in values.unbind(1)]
    weights = torch.cat(scores, -1).softmax(-1)
    return sum(weight.unsqueeze(-1) * one for weight, one in zip(weights.unbind(1), values.unbind(1), strict=True))


def region_vectors(decoder, features):
    return (linear(decoder.regions.project, features) + decoder.regions.position).relu()


def zeros(features, count):
    return [torch.zeros(len(features), H) for _ in range(count)]


def inject(decoder, features, words):
    h, c = zeros(features, 2)
    h, c = torch_lstm(decoder.lstm, linear(decoder.image, features.mean(1)), h, c)
    for word in words:
        h, c = torch_lstm(decoder.lstm, word, h, c)
        yield h


def merge(decoder, features, words):
    image = linear(decoder.image, features.mean(1)).relu()
    h, c = zeros(features, 2)
    for word in words:
        h, c = torch_lstm(decoder.lstm, word, h, c)
        yield linear(decoder.dense, image + h).relu()


def attention(decoder, features, words):
    values = region_vectors(decoder, features)
    h, c = linear(decoder.initial, values.mean(1)).tanh().split(H, -1)
    for word in words:
        context = linear(decoder.gate, h).sigmoid() * attend(decoder.attend, values, h)
        recurrent = linear(decoder.recurrent_gates, torch.cat([context, h], -1))
        h, c = lstm(linear(decoder.word_gates, word) + recurrent, c)
        yield linear(decoder.deep, torch.cat([h, context, word], -1)).tanh()


def updown(decoder, features, words):
    values = region_vectors(decoder, features)
    h1, c1, h2, c2 = zeros(features, 4)
    for word in words:
        known = linear(decoder.word_gates, word) + linear(decoder.image_gates, values.mean(1))
        h1, c1 = lstm(known + linear(decoder.attention_gates, torch.cat([h2, h1], -1)), c1)
        context = attend(decoder.attend, values, h1)
        h2, c2 = lstm(linear(decoder.language_gates, torch.cat([context, h1, h2], -1)), c2)
        yield h2


EQUATIONS = {"inject": inject, "merge": merge, "attention": attention, "updown": updown}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_computes_its_equations(kind, build):
    decoder = build(kind)
    features, tokens = inputs()
    words = [decoder.embedding.weight[token] for token in tokens.unbind(1)]
    normalized = (features - decoder.normalize.mean) * decoder.normalize.scale
    outputs = torch.stack(list(EQUATIONS[kind](decoder, normalized, words)), 1)
    torch.testing.assert_close(decoder(features, tokens), linear(decoder.output, outputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_feature_dropout_replaces_features_by_the_mean(kind, build):
    decoder = build(kind)
    features, tokens = inputs()
    expected = decoder(decoder.normalize.mean.expand_as(features), tokens)
    decoder.feature_dropout.p = 1.0
    torch.testing.assert_close(decoder.train()(features, tokens), expected)


@pytest.mark.parametrize("kind", DECODERS)
def test_embedding_dropout_replaces_embeddings_by_zeros(kind, build):
    decoder = build(kind)
    features, tokens = inputs()
    decoder.embedding_dropout.p = 1.0
    dropped = decoder.train()(features, tokens)
    nn.init.zeros_(decoder.embedding.weight)
    torch.testing.assert_close(dropped, decoder.eval()(features, tokens))


@pytest.mark.parametrize("kind", DECODERS)
def test_output_dropout_leaves_only_the_bias_of_the_output_layer(kind, build):
    decoder = build(kind)
    decoder.output_dropout.p = 1.0
    logits = decoder.train()(*inputs())
    torch.testing.assert_close(logits, decoder.output.bias.expand_as(logits))


def test_the_deep_output_of_attention_has_dropout_on_its_input_too(build):
    decoder = build("attention")
    decoder.output_dropout.forward = lambda values: values * (values.shape[-1] != 2 * H + E)
    logits = decoder(*inputs())
    expected = linear(decoder.output, decoder.deep.bias.tanh())
    torch.testing.assert_close(logits, expected.expand_as(logits))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", DECODERS)
def test_dropout_is_active_in_training_mode_only(kind, place, build):
    decoder, without = build(kind, **{place: 0.5}), build(kind)
    torch.testing.assert_close(decoder(*inputs()), without(*inputs()))
    assert not torch.allclose(decoder.train()(*inputs()), without(*inputs()), atol=1e-2)
