"""Every decoder is its paper's equations, written out here word by word; each dropout stands where it is said to."""

import pytest
import torch
from torch import nn

from pipeline.decoders import BOS, KINDS, make_decoder

V, R, C, E, H, A = 11, 4, 6, 12, 16, 8
SIZES = {"embed": E, "hidden": H, "attention": A, "layer_norm": False}
NO_DROPOUT = dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.0)


def decoder(kind, tied=False, **dropout):
    """With weights so large, biases among them, that every nonlinearity shows."""
    torch.manual_seed(0)
    params = {"kind": kind, "tie_weights": tied, **SIZES, **NO_DROPOUT, **dropout}
    model = make_decoder(params, vocabulary=V, regions=R, channels=C)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    model.standardise.fit(2 * torch.randn(9, R, C) + 1)
    return model.eval()


def inputs():
    tokens = torch.randint(4, V, (5, 7), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = BOS
    return torch.randn(5, R, C, generator=torch.Generator().manual_seed(2)), tokens


def linear(layer, x):
    """W x + b."""
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def lstm(cell, word, other, h, c):
    gates = linear(cell.recurrent, torch.cat([*other, h], -1))
    if word is not None:
        gates = gates + linear(cell.word, word)
    i, f, g, o = gates.split(H, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def attend(look, values, h):
    """The sum of the regions, each by its share of the softmax of w tanh(W_key value + W_query h)."""
    scores = [linear(look.score, (linear(look.key, one) + linear(look.query, h)).tanh()) for one in values.unbind(1)]
    shares = torch.cat(scores, -1).softmax(-1)
    return sum(share.unsqueeze(-1) * one for share, one in zip(shares.unbind(1), values.unbind(1), strict=True))


def regions(model, features):
    return (linear(model.regions.project, features) + model.regions.place).relu()


def zeros(features, count):
    return [torch.zeros(len(features), H) for _ in range(count)]


def inject(model, features, words):
    h, c = zeros(features, 2)
    h, c = lstm(model.cell, linear(model.image, features.mean(1)), [], h, c)
    for word in words:
        h, c = lstm(model.cell, word, [], h, c)
        yield h


def merge(model, features, words):
    image = linear(model.image, features.mean(1)).relu()
    h, c = zeros(features, 2)
    for word in words:
        h, c = lstm(model.cell, word, [], h, c)
        yield linear(model.dense, image + h).relu()


def attention(model, features, words):
    values = regions(model, features)
    h, c = linear(model.initial, values.mean(1)).tanh().split(H, -1)
    for word in words:
        context = linear(model.gate, h).sigmoid() * attend(model.look, values, h)
        h, c = lstm(model.cell, word, [context], h, c)
        yield linear(model.deep, torch.cat([h, context, word], -1)).tanh()


def updown(model, features, words):
    values = regions(model, features)
    h1, c1, h2, c2 = zeros(features, 4)
    for word in words:
        h1, c1 = lstm(model.attending, word, [h2, values.mean(1)], h1, c1)
        context = attend(model.look, values, h1)
        h2, c2 = lstm(model.speaking, None, [context, h1], h2, c2)
        yield h2


PLAIN = {"inject": inject, "merge": merge, "attention": attention, "updown": updown}


def said(model, output):
    if not model.tied:
        return linear(model.output, output)
    return linear(model.to_embedding, output) @ model.embedding.weight.T + model.bias


@pytest.mark.parametrize("learning", [False, True], ids=["saying", "learning"])
@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_equations(kind, tied, learning):
    model = decoder(kind, tied)
    features, tokens = inputs()
    words = [model.embedding.weight[token] for token in tokens.unbind(1)]
    standardised = (features - model.standardise.mean) * model.standardise.scale
    with torch.set_grad_enabled(learning):
        found = model(features, tokens)
    expected = torch.stack([said(model, output) for output in PLAIN[kind](model, standardised, words)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_features_a_picture_is_the_mean_one(kind):
    model = decoder(kind, feature_dropout=1.0)
    features, tokens = inputs()
    expected = model(model.standardise.mean.expand_as(features), tokens)
    torch.testing.assert_close(model.train()(features, tokens), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_words_a_caption_is_one_of_zeros(kind):
    model = decoder(kind, embedding_dropout=1.0)
    features, tokens = inputs()
    without = model.train()(features, tokens)
    nn.init.zeros_(model.embedding.weight)
    torch.testing.assert_close(without, model.eval()(features, tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_outputs_the_bias_alone_speaks(kind):
    model = decoder(kind, output_dropout=1.0)
    features, tokens = inputs()
    without = model.train()(features, tokens)
    torch.testing.assert_close(without, model.output.bias.expand_as(without))


def test_the_deep_output_of_attention_drops_what_it_reads_too():
    model = decoder("attention")
    model.output_dropout.forward = lambda values: values * (values.shape[-1] != 2 * H + E)
    without = model(*inputs())
    torch.testing.assert_close(without, linear(model.output, model.deep.bias.tanh()).expand_as(without))


@pytest.mark.parametrize("place", NO_DROPOUT)
@pytest.mark.parametrize("kind", KINDS)
def test_each_dropout_is_for_training_alone(kind, place):
    model, whole = decoder(kind, **{place: 0.5}), decoder(kind)
    torch.testing.assert_close(model(*inputs()), whole(*inputs()))
    assert not torch.allclose(model.train()(*inputs()), whole(*inputs()), atol=1e-2)
