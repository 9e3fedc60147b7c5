"""The search finds what it says it finds."""

import itertools

import pytest
import torch

from pipeline.decoders import BOS, EOS, KINDS, PAD, UNK, make_decoder
from pipeline.decoders.beam_search import SamplingOptions, SearchOptions, beam_search, sample
from pipeline.device import supports_bfloat16

V, R, C = 6, 2, 3  # two words beside the special tokens


def small(kind):
    params = {"kind": kind, "embed": 8, "hidden": 12, "attention": 6, "tie_weights": False, "layer_norm": False}
    no_dropout = {"feature_dropout": 0.0, "embedding_dropout": 0.0, "output_dropout": 0.0}
    return make_decoder(params | no_dropout, vocabulary=V, regions=R, channels=C).eval()


@pytest.fixture(params=sorted(KINDS))
def decoder(request):
    torch.manual_seed(3)
    model = small(request.param)
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.8)  # opinions strong enough to differ from picture to picture
    return model


@pytest.fixture
def features():
    return torch.randn(7, R, C, generator=torch.Generator().manual_seed(4))


def log_probability(decoder, features, tokens):
    state, total, last = decoder.start(features.unsqueeze(0)), 0.0, BOS
    for token in (*tokens, EOS):
        log_probs, state = decoder.step(state, torch.tensor([last]))
        total += float(log_probs[0, token])
        last = token
    return total


def every_caption(longest):
    words = [token for token in range(V) if token not in {PAD, BOS, EOS, UNK}]
    return [one for length in range(longest + 1) for one in itertools.product(words, repeat=length)]


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@torch.inference_mode()
def test_a_wide_beam_equals_exhaustive_search(decoder, features, penalty):
    longest = 4
    found = beam_search(decoder, features, SearchOptions(2**longest * 4, longest, penalty), captions=3)
    for picture, best in zip(features, found, strict=True):
        scores = {
            tokens: log_probability(decoder, picture, tokens) / (len(tokens) + 1) ** penalty
            for tokens in every_caption(longest)
        }
        expected = sorted(scores, key=lambda tokens: -scores[tokens])[:3]
        assert [one.tokens for one in best] == expected
        assert best[0].score == pytest.approx(scores[expected[0]], abs=1e-4)


@torch.inference_mode()
def test_a_beam_of_one_is_greedy(decoder, features):
    for picture, (best,) in zip(features, beam_search(decoder, features, SearchOptions(1, 6, 0.7)), strict=True):
        state, last, tokens = decoder.start(picture.unsqueeze(0)), BOS, []
        while len(tokens) < 6:
            log_probs, state = decoder.step(state, torch.tensor([last]))
            log_probs[0, [PAD, BOS, UNK]] = -torch.inf
            last = int(log_probs.argmax())
            if last == EOS:
                break
            tokens.append(last)
        assert best.tokens == tuple(tokens)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_the_company_in_a_batch_changes_no_caption(decoder, features, beam):
    search = SearchOptions(beam, 8, 0.7)
    together = beam_search(decoder, features, search)
    alone = [beam_search(decoder, picture.unsqueeze(0), search)[0] for picture in features]
    assert [one[0].tokens for one in together] == [one[0].tokens for one in alone]


def test_no_caption_is_longer_than_asked_or_holds_a_special_token(decoder, features):
    for captions in beam_search(decoder, features, SearchOptions(4, 3, 0.0), captions=4):
        for one in captions:
            assert len(one.tokens) <= 3
            assert not {PAD, BOS, EOS, UNK} & set(one.tokens)


def test_several_captions_differ_and_come_best_first(decoder, features):
    for captions in beam_search(decoder, features, SearchOptions(5, 6, 0.7), captions=5):
        assert len({one.tokens for one in captions}) == len(captions) > 1
        assert [one.score for one in captions] == sorted((one.score for one in captions), reverse=True)


@pytest.mark.skipif(not supports_bfloat16(torch.device("cpu")), reason="needs a processor with bfloat16")
def test_half_precision_is_near_and_only_there_when_asked_for(decoder, features):
    full = beam_search(decoder, features, SearchOptions(1, 4))
    half = beam_search(decoder, features, SearchOptions(1, 4, precision="bfloat16"))
    pairs = [(one, other) for (one,), (other,) in zip(full, half, strict=True)]
    assert sum(one.tokens == other.tokens for one, other in pairs) >= 5
    assert any(one.log_probability != other.log_probability for one, other in pairs)
    for one, other in pairs:
        if one.tokens == other.tokens:
            assert other.log_probability == pytest.approx(one.log_probability, abs=0.2)


def test_attention_is_told_for_each_word(features):
    torch.manual_seed(1)
    model = small("attention")
    for (best,) in beam_search(model, features, SearchOptions(3, 5, 1.0), attention=True):
        looks = best.attention or ()
        assert len(looks) == len(best.tokens)
        assert all(sum(look) == pytest.approx(1, abs=1e-5) for look in looks)


@pytest.mark.parametrize("kind", ["attention", "merge"])
def test_a_caption_without_words_has_looked_at_nothing(features, kind):
    model = small(kind)
    with torch.no_grad():
        model.output.bias[EOS] = 50.0
    for (best,) in beam_search(model, features, SearchOptions(2, 5, 1.0), attention=True):
        assert best.tokens == ()
        assert best.attention == (() if kind == "attention" else None)


def test_where_no_word_is_left_a_caption_may_be_shorter_than_asked(decoder, features):
    search = SearchOptions(2, 9, 0.0, min_length=5, no_repeat_ngram=1)
    for captions in beam_search(decoder, features, search, captions=2):
        assert [len(one.tokens) for one in captions] == [2, 2]  # both words of this vocabulary, once each


def test_no_caption_is_shorter_than_asked(decoder, features):
    for (best,) in beam_search(decoder, features, SearchOptions(3, 8, 0.0, min_length=5)):
        assert len(best.tokens) >= 5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_said_twice(decoder, features, size):
    search = SearchOptions(3, 12, 0.0, min_length=3, no_repeat_ngram=size)
    for captions in beam_search(decoder, features, search, captions=3):
        for one in captions:
            ngrams = list(zip(*(one.tokens[start:] for start in range(size)), strict=False))
            assert len(set(ngrams)) == len(ngrams)
    if size < 3:  # without the rule the same decoders do repeat themselves
        plain = beam_search(decoder, features, SearchOptions(3, 12, 0.0, min_length=3))
        assert any(len(set(one.tokens)) < len(one.tokens) for (one,) in plain)


def test_the_seed_decides_what_is_drawn(decoder, features):
    first, again, other = (
        [one.tokens for found in sample(decoder, features, SamplingOptions(seed=seed), captions=4) for one in found]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == 28


@torch.inference_mode()
def test_samples_come_as_often_as_the_decoder_says(decoder, features):
    picture = features[:1]
    found = sample(decoder, picture, SamplingOptions(max_length=1, seed=5), captions=4000)[0]
    words = [token for token in range(V) if token not in {PAD, BOS, EOS, UNK}]
    log_probs, _ = decoder.step(decoder.start(picture), torch.tensor([BOS]))
    log_probs[0, [PAD, BOS, UNK]] = -torch.inf
    expected = log_probs[0].softmax(0)
    for word in words:
        share = sum(one.tokens == (word,) for one in found) / len(found)
        assert share == pytest.approx(float(expected[word]), abs=0.04)


@torch.inference_mode()
def test_a_sample_knows_its_probability(decoder, features):
    for picture, found in zip(features, sample(decoder, features, SamplingOptions(max_length=5), captions=2), strict=True):
        for one in found:
            assert one.log_probability == pytest.approx(log_probability(decoder, picture, one.tokens), abs=1e-4)


def test_a_sample_is_scored_as_a_caption_that_was_searched_for(decoder, features):
    for (one,) in sample(decoder, features, SamplingOptions(max_length=5, length_penalty=0.5)):
        assert one.score == pytest.approx(one.log_probability / (len(one.tokens) + 1) ** 0.5)


def test_a_sample_knows_where_the_decoder_looked(features):
    torch.manual_seed(0)
    for (one,) in sample(small("attention"), features, SamplingOptions(max_length=5), attention=True):
        assert len(one.attention) == len(one.tokens)
        assert all(sum(look) == pytest.approx(1, abs=1e-5) and len(look) == R for look in one.attention)
    assert all(one.attention is None for (one,) in sample(small("merge"), features, SamplingOptions(), attention=True))


@pytest.mark.parametrize(
    "options", [{"beam_size": 0}, {"max_length": 0}, {"length_penalty": -1}, {"min_length": 4, "max_length": 3}]
)
def test_what_no_search_can_do_is_refused(options):
    with pytest.raises(ValueError, match=r"max_length|length_penalty"):
        SearchOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_length": 0},
    ],
)
def test_what_cannot_be_drawn_from_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplingOptions(**options)


@pytest.mark.parametrize("sampling", [SamplingOptions(temperature=1e-4), SamplingOptions(top_k=1), SamplingOptions(top_p=1e-6)])
def test_narrowed_to_one_word_a_sample_is_the_greedy_caption(decoder, features, sampling):
    greedy = beam_search(decoder, features, SearchOptions(1, 30))
    drawn = sample(decoder, features, sampling)
    assert [one.tokens for (one,) in drawn] == [one.tokens for (one,) in greedy]
