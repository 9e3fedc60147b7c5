"""Every decoder implements the interface."""

import pytest
import torch
from torch.nn import functional

from pipeline.decoders.decoder import FeatureNormalizer, State
from pipeline.decoders.registry import DECODERS, AttentionOptions
from pipeline.tokens import BOS, EOS

V, R, C = 11, 4, 6
SIZES = {"vocabulary": V, "regions": R, "channels": C}
WITH_ATTENTION = [kind for kind, entry in DECODERS.items() if issubclass(entry.options, AttentionOptions)]


@pytest.fixture(params=DECODERS)
def decoder(request, small_decoder):
    return small_decoder(request.param, **SIZES)


def inputs(batch=5, steps=7, seed=1):
    """Features (B, R, C) and tokens (B, T) that begin with BOS."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, R, C, generator=generator)
    tokens = torch.randint(4, V, (batch, steps), generator=generator)
    tokens[:, 0] = BOS
    return features, tokens


def test_step_equals_forward(decoder):
    features, tokens = inputs()
    expected = decoder(features, tokens).log_softmax(-1)
    state = decoder.start(features)
    for step in range(tokens.shape[1]):
        log_probs, state = decoder.step(state, tokens[:, step])
        torch.testing.assert_close(log_probs, expected[:, step])


def test_logits_do_not_depend_on_the_rest_of_the_batch(decoder):
    features, tokens = inputs()
    together = decoder(features, tokens)
    alone = torch.cat([decoder(features[n : n + 1], tokens[n : n + 1]) for n in range(len(tokens))])
    torch.testing.assert_close(together, alone)


def test_only_the_positions_asked_for_get_logits_and_padding_does_not_change_them(decoder):
    features, tokens = inputs()
    padded = functional.pad(tokens, (0, 3))
    positions = torch.arange(padded.numel()).view_as(padded)[:, : tokens.shape[1]].flatten()
    logits = decoder.follow(decoder.start(features), decoder.embed(padded), positions)
    torch.testing.assert_close(logits, decoder(features, tokens).flatten(0, 1))


def test_logits_depend_on_the_image(decoder):
    features, tokens = inputs()
    assert not torch.allclose(decoder(features, tokens), decoder(features.flip(0), tokens), atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_training_overfits_eight_captions(kind, small_decoder):
    decoder = small_decoder(kind, **SIZES, hidden=64, embed=32).train()
    features, tokens = inputs(8, 6)
    targets = torch.cat([tokens[:, 1:], torch.full((8, 1), EOS)], 1)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(150):
        loss = functional.cross_entropy(decoder(features, tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (decoder(features, tokens).argmax(-1) == targets).all()


def test_beams_of_one_image_equal_copies_of_the_image(decoder):
    features, tokens = inputs(batch=6)
    copies = decoder.start(features.repeat_interleave(3, 0))
    state = decoder.start(features)
    beams = State(state.image, tuple(part.repeat_interleave(3, 0) for part in state.beam))
    for column in tokens.repeat(3, 1).unbind(1):
        expected, copies = decoder.step(copies, column)
        found, beams = decoder.step(beams, column)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", DECODERS)
def test_attention_weights_sum_to_one(kind, small_decoder):
    decoder = small_decoder(kind, **SIZES)
    features, tokens = inputs()
    _, state = decoder.step(decoder.start(features), tokens[:, 0])
    weights = decoder.attention_weights(state)
    if kind in WITH_ATTENTION:
        assert weights.shape == (5, R)
        torch.testing.assert_close(weights.sum(-1), torch.ones(5))
    else:
        assert weights is None


@pytest.mark.parametrize("kind", WITH_ATTENTION)
def test_attention_decoders_know_the_position_of_a_region(kind, small_decoder):
    decoder = small_decoder(kind, **SIZES)
    features, tokens = inputs()
    assert not torch.allclose(decoder(features, tokens), decoder(features.flip(1), tokens), atol=1e-5)


def test_the_image_vector_has_the_width_of_the_hidden_state(decoder):
    features, _ = inputs()
    vectors = decoder.image_vector(decoder.start(features))
    assert vectors.shape == (5, decoder.hidden)
    assert not torch.allclose(vectors, vectors.flip(0), atol=1e-4)


def test_pooled_features_give_the_same_logits(decoder):
    features, tokens = inputs()
    torch.testing.assert_close(decoder(decoder.pool(features), tokens), decoder(features, tokens))


def test_features_are_normalized_over_all_chunks():
    normalizer = FeatureNormalizer(C)
    features = torch.randn(600, R, C, generator=torch.Generator().manual_seed(0))
    features = features * torch.tensor([1, 10, 0.1, 5, 2, 0]) + 3
    normalizer.fit(features.split(250))
    normalized = normalizer(features)
    torch.testing.assert_close(normalized.mean((0, 1)), torch.zeros(C), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std((0, 1))[:5], torch.ones(5), atol=1e-2, rtol=0)
    assert (normalized[..., 5] == 0).all()  # a constant channel


@pytest.mark.parametrize("kind", DECODERS)
def test_padding_changes_nothing(kind, small_decoder):
    padded = small_decoder(kind, vocabulary=V, regions=R + 3, channels=C, padded=True)
    exact = small_decoder(kind, **SIZES, padded=True)
    for own, other in zip(exact.parameters(), padded.parameters(), strict=True):
        own.data = other.data[:R] if own.shape != other.shape else other.data  # parameters of regions: the first ones
    features, tokens = inputs()
    longer = functional.pad(features, (0, 0, 0, 3))
    with_padding = padded(longer, tokens)
    torch.testing.assert_close(with_padding, exact(features, tokens))
    torch.testing.assert_close(padded(padded.pool(longer), tokens), with_padding)
    state = padded.start(longer)
    torch.testing.assert_close(padded.image_vector(state), exact.image_vector(exact.start(features)))
    weights = padded.attention_weights(padded.step(state, tokens[:, 0])[1])
    assert weights is None or (weights[:, R:] == 0).all()


def test_padding_does_not_count_in_the_normalization():
    features = torch.randn(50, R, C, generator=torch.Generator().manual_seed(0)) + 3
    real, padded = FeatureNormalizer(C), FeatureNormalizer(C, padded=True)
    real.fit([features])
    padded.fit([torch.cat([features, torch.zeros(50, 2, C)], 1)])
    torch.testing.assert_close(padded.mean, real.mean)
    torch.testing.assert_close(padded.scale, real.scale)
