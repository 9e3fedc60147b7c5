"""Beam search finds the captions that it promises."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.search import NEVER_GENERATED, SearchOptions
from pipeline.device import supports_bfloat16
from pipeline.errors import NumericError
from pipeline.options import first_error
from pipeline.tokens import BOS, EOS, PAD

WORDS = (4, 5)  # the tokens that are not special


def log_probabilities(decoder, features, captions):
    """Log-probability of each caption and its end, given the features (2, 3) of an image."""
    length = max(map(len, captions)) + 2
    tokens = torch.tensor([(BOS, *one, EOS) + (PAD,) * (length - 2 - len(one)) for one in captions])
    log_probs = decoder(features.expand(len(captions), -1, -1), tokens[:, :-1]).log_softmax(-1)
    of_targets = log_probs.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    return (of_targets * (tokens[:, 1:] != PAD)).sum(1).tolist()


def make_end_unlikely(decoder):
    """A caption then ends only where no other token is allowed."""
    torch.nn.init.constant_(decoder.output.bias[EOS : EOS + 1], -50.0)


def all_captions(longest):
    return [one for length in range(longest + 1) for one in itertools.product(WORDS, repeat=length)]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@torch.inference_mode()
def test_a_wide_beam_equals_exhaustive_search(decoder, features, penalty):
    longest = 4
    found = beam_search(decoder, features, SearchOptions(2**longest * 4, longest, penalty), captions=3)
    for image, best in zip(features, found, strict=True):
        captions = all_captions(longest)
        scores = {
            tokens: log_probability / (len(tokens) + 1) ** penalty
            for tokens, log_probability in zip(captions, log_probabilities(decoder, image, captions), strict=True)
        }
        expected = sorted(scores, key=lambda tokens: -scores[tokens])[:3]
        assert [one.tokens for one in best] == expected
        assert best[0].score == pytest.approx(scores[expected[0]], abs=1e-4)


@torch.inference_mode()
def test_a_beam_of_one_is_greedy_search(decoder, features):
    for image, (best,) in zip(features, beam_search(decoder, features, SearchOptions(1, 6, 0.7)), strict=True):
        state, last, tokens = decoder.start(image.unsqueeze(0)), BOS, []
        while len(tokens) < 6:
            log_probs, state = decoder.step(state, torch.tensor([last]))
            log_probs[0, NEVER_GENERATED] = -torch.inf
            last = int(log_probs.argmax())
            if last == EOS:
                break
            tokens.append(last)
        assert best.tokens == tuple(tokens)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_captions_do_not_depend_on_the_rest_of_the_batch(decoder, features, beam):
    options = SearchOptions(beam, 8, 0.7)
    together = beam_search(decoder, features, options)
    alone = [beam_search(decoder, image.unsqueeze(0), options)[0] for image in features]
    assert [one[0].tokens for one in together] == [one[0].tokens for one in alone]


@pytest.mark.parametrize("vocabulary", [6, 60])
def test_of_equal_scores_the_lower_token_is_taken(features, vocabulary, small_decoder):
    decoder = small_decoder("merge", vocabulary=vocabulary)
    torch.nn.init.zeros_(decoder.output.weight)
    torch.nn.init.zeros_(decoder.output.bias)
    make_end_unlikely(decoder)
    for captions in beam_search(decoder, features, SearchOptions(2, 3, 1.0), captions=2):
        assert [one.tokens for one in captions] == [(4, 4, 4), (4, 4, 5)]


def test_no_caption_is_longer_than_allowed_or_contains_a_special_token(decoder, features):
    for captions in beam_search(decoder, features, SearchOptions(4, 3, 0.0), captions=4):
        for one in captions:
            assert len(one.tokens) <= 3
            assert set(one.tokens) <= set(WORDS)


def test_several_captions_differ_and_are_sorted_by_score(decoder, features):
    for captions in beam_search(decoder, features, SearchOptions(5, 6, 0.7), captions=5):
        assert len({one.tokens for one in captions}) == len(captions) > 1
        assert [one.score for one in captions] == sorted((one.score for one in captions), reverse=True)


@pytest.mark.skipif(not supports_bfloat16(torch.device("cpu")), reason="needs a processor with bfloat16")
def test_bfloat16_is_close_to_float32(decoder, features):
    full = beam_search(decoder, features, SearchOptions(1, 4))
    half = beam_search(decoder, features, SearchOptions(1, 4, precision="bfloat16"))
    pairs = [(one, other) for (one,), (other,) in zip(full, half, strict=True)]
    assert sum(one.tokens == other.tokens for one, other in pairs) >= 5
    assert any(one.log_probability != other.log_probability for one, other in pairs)
    for one, other in pairs:
        if one.tokens == other.tokens:
            assert other.log_probability == pytest.approx(one.log_probability, abs=0.2, rel=0.01)


def test_hypotheses_include_attention_weights_for_each_token(features, small_decoder):
    decoder = small_decoder("attention")
    for (best,) in beam_search(decoder, features, SearchOptions(3, 5, 1.0), attention=True):
        assert len(best.attention) == len(best.tokens)
        assert all(sum(weights) == pytest.approx(1, abs=1e-5) for weights in best.attention)


@pytest.mark.parametrize(("kind", "expected"), [("attention", ()), ("merge", None)])
def test_an_empty_caption_has_no_attention_weights(features, kind, expected, small_decoder):
    decoder = small_decoder(kind)
    torch.nn.init.constant_(decoder.output.bias[EOS : EOS + 1], 50.0)
    for (best,) in beam_search(decoder, features, SearchOptions(2, 5, 1.0), attention=True):
        assert best.tokens == ()
        assert best.attention == expected


def test_a_caption_ends_where_every_other_token_would_repeat_an_ngram(decoder, features):
    make_end_unlikely(decoder)
    for captions in beam_search(decoder, features, SearchOptions(2, 9, 0.0, no_repeat_ngram=1), captions=2):
        assert [len(one.tokens) for one in captions] == [2, 2]  # both words of this vocabulary, once each


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_repeated(decoder, features, size):
    make_end_unlikely(decoder)
    options = SearchOptions(3, 12, 1.0, no_repeat_ngram=size)
    for captions in beam_search(decoder, features, options, captions=3):
        for one in captions:
            ngrams = list(zip(*(one.tokens[start:] for start in range(size)), strict=False))
            assert len(set(ngrams)) == len(ngrams)
    if size < 3:  # without the rule the same decoders repeat tokens
        unrestricted = beam_search(decoder, features, SearchOptions(3, 12, 1.0))
        assert any(len(set(one.tokens)) < len(one.tokens) for (one,) in unrestricted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size: must be greater than or equal to 1"),
        ({"max_length": 0}, "max_length: must be greater"),
        ({"length_penalty": -1}, "length_penalty: must be greater than or equal to 0"),
        ({"length_penalty": float("nan")}, "length_penalty: must be a finite number"),
        ({"length_penalty": float("inf")}, "length_penalty: must be"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram: must be greater"),
        ({"precision": "float16"}, "precision: must be 'float32' or 'bfloat16'"),
        ({"beam_size": 101}, "beam_size: must be less than or equal to 100"),
        ({"max_length": 1001}, "max_length: must be less than or equal to 1000"),
        ({"beam_size": "3"}, "beam_size: must be a valid integer"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError) as raised:
        SearchOptions(**options)
    assert first_error(raised.value).startswith(message)


def test_features_that_are_not_finite_are_an_error(decoder, features):
    features[3] = torch.nan
    with pytest.raises(NumericError, match="the decoder's probabilities are not finite"):
        beam_search(decoder, features, SearchOptions())
