"""Samples follow the decoder's distribution."""

import pytest
import torch

from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.registry import DECODERS
from pipeline.decoders.sampling import sample, sample_tokens, sampling_noise
from pipeline.decoders.search import NEVER_GENERATED, SamplingOptions, SearchOptions
from pipeline.errors import NumericError
from pipeline.tokens import BOS, EOS

WORDS = (4, 5)  # the tokens that are not special


def test_the_seed_determines_the_samples(decoder, features):
    first, again, other = (
        [one.tokens for found in sample(decoder, features, SamplingOptions(seed=seed), captions=4) for one in found]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == 28


@pytest.mark.parametrize("kind", DECODERS)
def test_sampling_a_fixed_number_of_steps_finds_the_same_captions(small_decoder, features, kind):
    decoder, options = small_decoder(kind), SamplingOptions(max_length=40)

    def samples(early_stop):
        noise = sampling_noise(decoder, 14, options, torch.Generator().manual_seed(1))
        return sample_tokens(decoder, features, noise, options, captions=2, early_stop=early_stop)

    stopped, fixed = samples(True), samples(False)
    steps = stopped.tokens.shape[1]
    assert steps < fixed.tokens.shape[1] == 41
    assert torch.equal(stopped.tokens, fixed.tokens[:, :steps])
    assert bool((fixed.tokens[:, steps:] == EOS).all())
    assert torch.equal(stopped.log_probabilities, fixed.log_probabilities)


@pytest.mark.parametrize("kind", DECODERS)
def test_sampling_a_fixed_number_of_steps_reads_no_value_from_the_device(small_decoder, features, kind):
    decoder, features = small_decoder(kind).to("meta"), features.to("meta")  # a meta tensor has no values
    noise, options = torch.empty(4, 14, 6, device="meta"), SamplingOptions(max_length=3)
    assert sample_tokens(decoder, features, noise, options, captions=2, early_stop=False).tokens.shape == (14, 4)
    with pytest.raises(RuntimeError, match="meta"):
        sample_tokens(decoder, features, noise, options, captions=2)


@torch.inference_mode()
def test_tokens_are_sampled_as_often_as_the_decoder_predicts(decoder, features):
    image = features[:1]
    found = sample(decoder, image, SamplingOptions(max_length=1, seed=5), captions=4000)[0]
    log_probs, _ = decoder.step(decoder.start(image), torch.tensor([BOS]))
    log_probs[0, NEVER_GENERATED] = -torch.inf
    expected = log_probs[0].softmax(0)
    for word in WORDS:
        share = sum(one.tokens == (word,) for one in found) / len(found)
        assert share == pytest.approx(float(expected[word]), abs=0.04)


@torch.inference_mode()
def test_log_probabilities_and_scores_are_those_of_the_decoder(decoder, features):
    options = SamplingOptions(max_length=5, temperature=2.0, length_penalty=0.5)
    for image, found in zip(features, sample(decoder, features, options, captions=2), strict=True):
        for one in found:
            state, expected, last = decoder.start(image.unsqueeze(0)), 0.0, BOS
            for token in (*one.tokens, EOS):
                log_probs, state = decoder.step(state, torch.tensor([last]))
                expected += float(log_probs[0, token])
                last = token
            assert one.log_probability == pytest.approx(expected, abs=1e-4)
            assert one.score == pytest.approx(one.log_probability / (len(one.tokens) + 1) ** 0.5)


def test_samples_include_attention_weights_for_each_token(features, small_decoder):
    with_attention, without = small_decoder("attention"), small_decoder("merge")
    for (one,) in sample(with_attention, features, SamplingOptions(max_length=5), attention=True):
        assert len(one.attention) == len(one.tokens)
        assert all(sum(weights) == pytest.approx(1, abs=1e-5) and len(weights) == 2 for weights in one.attention)
    assert all(one.attention is None for (one,) in sample(without, features, SamplingOptions(), attention=True))


@pytest.mark.parametrize(
    "options", [SamplingOptions(temperature=1e-4), SamplingOptions(top_k=1), SamplingOptions(top_p=1e-6)]
)
def test_sampling_restricted_to_one_token_is_greedy_search(decoder, features, options):
    greedy = beam_search(decoder, features, SearchOptions(1, 30))
    assert [one.tokens for (one,) in sample(decoder, features, options)] == [one.tokens for (one,) in greedy]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_length": 0},
        {"length_penalty": -3},
        {"length_penalty": float("nan")},
        {"temperature": float("inf")},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplingOptions(**options)


def test_features_that_are_not_finite_are_an_error(decoder, features):
    features[3] = torch.nan
    with pytest.raises(NumericError, match="the decoder's probabilities are not finite"):
        sample(decoder, features, SamplingOptions())
