"""Every decoder keeps the protocol's promises."""

import pytest
import torch

from pipeline.decoders import BOS, EOS, KINDS, make_decoder
from pipeline.decoders.decoder import State

WIDTHS = {
    "embed": 12,
    "hidden": 16,
    "attention": 8,
    "feature_dropout": 0.0,
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
    "tie_weights": False,
    "layer_norm": False,
}
V, R, C = 11, 4, 6


def decoder(kind, seed=0, **widths):
    torch.manual_seed(seed)
    return make_decoder({"kind": kind, **WIDTHS, **widths}, vocabulary=V, regions=R, channels=C).eval()


def inputs(batch=5, steps=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, R, C, generator=generator)
    tokens = torch.randint(4, V, (batch, steps), generator=generator)
    tokens[:, 0] = BOS
    return features, tokens


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_stepping_equals_the_teacher_forced_pass(kind, tied, normed):
    model = decoder(kind, tie_weights=tied, layer_norm=normed)
    features, tokens = inputs()
    together = model(features, tokens).log_softmax(-1)
    state = model.start(features)
    for step in range(tokens.shape[1]):
        log_probs, state = model.step(state, tokens[:, step])
        torch.testing.assert_close(log_probs, together[:, step])


@pytest.mark.parametrize("kind", KINDS)
def test_the_company_in_a_batch_changes_nothing(kind):
    model = decoder(kind)
    features, tokens = inputs()
    together = model(features, tokens)
    alone = torch.cat([model(features[n : n + 1], tokens[n : n + 1]) for n in range(len(tokens))])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_gets_no_logits(kind):
    model = decoder(kind)
    features, tokens = inputs()
    padded = torch.nn.functional.pad(tokens, (0, 3))
    places = torch.arange(padded.numel()).view_as(padded)[:, : tokens.shape[1]].flatten()
    torch.testing.assert_close(model(features, padded, places), model(features, tokens).flatten(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_depend_on_the_picture(kind):
    model = decoder(kind)
    features, tokens = inputs()
    assert not torch.allclose(model(features, tokens), model(features.flip(0), tokens), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_pictures_can_be_learnt_by_heart(kind):
    model = decoder(kind, hidden=64, embed=32).train()
    features, tokens = inputs(8, 6)
    targets = torch.cat([tokens[:, 1:], torch.full((8, 1), EOS)], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(features, tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(features, tokens).argmax(-1) == targets).all()


@pytest.mark.parametrize("kind", KINDS)
def test_beams_of_a_picture_are_as_good_as_pictures_of_their_own(kind):
    model = decoder(kind)
    features, tokens = inputs(batch=6)
    alone = model.start(features.repeat_interleave(3, 0))
    state = model.start(features)
    state = State(state.picture, tuple(part.repeat_interleave(3, 0) for part in state.beam))
    for column in tokens.repeat(3, 1).unbind(1):
        expected, alone = model.step(alone, column)
        together, state = model.step(state, column)
        torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("kind", ["attention", "updown"])
def test_attention_looks_at_regions(kind):
    features, tokens = inputs()
    looking = decoder(kind)
    _, state = looking.step(looking.start(features), tokens[:, 0])
    torch.testing.assert_close(looking.attention_weights(state).sum(-1), torch.ones(5))


@pytest.mark.parametrize("kind", ["inject", "merge"])
def test_the_others_do_not_look(kind):
    blind = decoder(kind)
    assert blind.attention_weights(blind.start(inputs()[0])) is None


def test_tied_weights_are_the_embedding_and_save_parameters():
    wide = {"embed": 16, "hidden": 16}
    tied, free = decoder("merge", tie_weights=True, **wide), decoder("merge", **wide)
    assert sum(part.numel() for part in tied.parameters()) < sum(part.numel() for part in free.parameters()) + 17 * 16
    assert "output.weight" not in tied.state_dict()


@pytest.mark.parametrize("kind", ["attention", "updown"])
def test_attention_knows_where_a_region_is(kind):
    model = decoder(kind)
    features, tokens = inputs()
    assert not torch.allclose(model(features, tokens), model(features.flip(1), tokens), atol=1e-5)


def test_features_are_standardised_over_the_training_pictures():
    model = decoder("inject")
    features = torch.randn(600, R, C) * torch.tensor([1, 10, 0.1, 5, 2, 0]) + 3
    model.standardise.fit(features)
    scaled = model.standardise(features)
    torch.testing.assert_close(scaled.mean((0, 1)), torch.zeros(C), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std((0, 1))[:5], torch.ones(5), atol=1e-2, rtol=0)
    assert (scaled[..., 5] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_condensed_features_say_the_same(kind):
    model = decoder(kind)
    features, tokens = inputs()
    torch.testing.assert_close(model(model.condense(features), tokens), model(features, tokens))
