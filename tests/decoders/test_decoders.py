"""Every decoder keeps the protocol's promises."""

import pytest
import torch

from pipeline.decoders import BOS, EOS, make_decoder

KINDS = ("inject", "attention")
WIDTHS = {"embed": 12, "hidden": 16, "attention": 8, "dropout": 0.0}
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


@pytest.mark.parametrize("kind", KINDS)
def test_stepping_equals_the_teacher_forced_pass(kind):
    model = decoder(kind)
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
    real = torch.ones_like(padded, dtype=torch.bool)
    real[:, tokens.shape[1] :] = False
    torch.testing.assert_close(model(features, padded, real), model(features, tokens).flatten(0, 1))


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


def test_attention_looks_at_regions_and_inject_does_not():
    features, tokens = inputs()
    looking, blind = decoder("attention"), decoder("inject")
    _, state = looking.step(looking.start(features), tokens[:, 0])
    torch.testing.assert_close(looking.attention_map(state).sum(-1), torch.ones(5))
    assert blind.attention_map(blind.start(features)) is None


def test_attention_knows_where_a_region_is():
    model = decoder("attention")
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
