"""Choosing among captions by what people said of pictures alike."""

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import run_command, set_param

from pipeline import paths
from pipeline.datasets.tables import read_captions
from pipeline.decoders.beam_search import SearchOptions, beam_search
from pipeline.errors import ArtefactError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.reranking import Reranker
from pipeline.text import character_tokenizer as characters

WIDTH, VOCABULARY = 8, 30


@dataclass(frozen=True)
class Said:
    tokens: tuple[int, ...]
    score: float
    agreement: float | None = None


def training(pictures=40, seed=0):
    random = np.random.default_rng(seed)
    known = random.normal(size=(pictures, WIDTH)).astype(np.float32)
    captions = [
        [random.integers(4, VOCABULARY, random.integers(1, 14)).tolist() for _ in range(random.integers(1, 6))]
        for _ in range(pictures)
    ]
    return known, captions


def candidates(count, seed=1):
    random = np.random.default_rng(seed)
    return [Said(tuple(random.integers(4, 12, random.integers(0, 10)).tolist()), -1.0 - n) for n in range(count)]


class Plain:
    """The same, written as the definition reads: one pair of captions after another."""

    def __init__(self, known, captions):
        self.captions = captions
        self.mean, self.deviation = known.mean(0), known.std(0)
        self.vectors = [self.direction(row) for row in known]
        frequency = Counter(word for texts in captions for word in {word for text in texts for word in text})
        self.rarity = [math.log(len(captions) / max(frequency[word], 1)) for word in range(VOCABULARY)]

    def direction(self, row):
        row = (row - self.mean) / self.deviation
        return row / np.linalg.norm(row)

    def vector(self, caption, size):
        counts = Counter(tuple(caption[at : at + size]) for at in range(len(caption) - size + 1))
        return {gram: n * sum(self.rarity[word] for word in gram) / size for gram, n in counts.items()}

    def similarity(self, ours, theirs):
        total = 0.0
        for size in range(1, 5):
            one, other = self.vector(ours, size), self.vector(theirs, size)
            norms = math.hypot(*one.values()) * math.hypot(*other.values())
            shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in one.items() if gram in other)
            total += shared / norms if norms else 0.0
        return 10 / 4 * total * math.exp(-((len(ours) - len(theirs)) ** 2) / (2 * 6.0**2))

    def agreement(self, row, ours, neighbours):
        wanted = self.direction(row)
        cosines = sorted(((float(wanted @ vector), -at) for at, vector in enumerate(self.vectors)), reverse=True)
        near = cosines[:neighbours]
        weights = [math.exp((cosine - near[0][0]) / 0.15) for cosine, _ in near]
        of_each = [
            np.mean([self.similarity(ours, theirs) for theirs in self.captions[-minus_at]]) for _, minus_at in near
        ]
        return float(np.dot(weights, of_each) / sum(weights))


@pytest.mark.parametrize("neighbours", [1, 7, 40, 400])
def test_it_is_the_definition(neighbours):
    known, captions = training()
    memory = Reranker.store_captions(known, captions, vocabulary=VOCABULARY)
    plain = Plain(known, captions)
    new = np.random.default_rng(5).normal(size=(3, WIDTH)).astype(np.float32)
    found = [candidates(6, seed) for seed in range(3)]
    ranked = memory.ranked(new, found, neighbours=neighbours, weight=2.5)
    for row, before, after in zip(new, found, ranked, strict=True):
        agreement = [plain.agreement(row, one.tokens, neighbours) for one in before]
        order = sorted(range(len(before)), key=lambda place: -before[place].score - 2.5 * agreement[place])
        assert [one.tokens for one in after] == [before[place].tokens for place in order]
        assert [one.score for one in after] == [before[place].score for place in order]
        # The vectors are kept in float16.
        assert [one.agreement for one in after] == pytest.approx([agreement[place] for place in order], abs=0.01)
        assert max(agreement) - min(agreement) > 0.1


def test_agreement_stays_within_its_bounds_whatever_a_file_says():
    memory = Reranker.store_captions(*training(), vocabulary=VOCABULARY)
    arrays = memory.arrays()
    arrays["norms"] = arrays["norms"] * np.float32(1e-30)
    hostile = Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, width=WIDTH)
    (found,) = hostile.ranked(np.ones((1, WIDTH), np.float32), [candidates(6)], neighbours=9, weight=1.0)
    assert max(one.agreement for one in found) == 10


def test_people_decide_where_the_search_does_not():
    """Of two captions, equally likely, the one is said of pictures like this one, the other of pictures unlike it."""
    known = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0) + np.linspace(0, 0.01, 20, dtype=np.float32)[:, None]
    captions = [[[4, 5, 6]]] * 10 + [[[7, 8, 9]]] * 10
    memory = Reranker.store_captions(known, captions, vocabulary=10)
    found = [[Said((4, 5, 6), -1.0), Said((7, 8, 9), -1.0)]] * 2
    first, second = memory.ranked(known[[0, 15]], found, neighbours=5, weight=4.0)
    assert [one.tokens for one in first] == [(4, 5, 6), (7, 8, 9)]
    assert [one.tokens for one in second] == [(7, 8, 9), (4, 5, 6)]
    assert first[0].agreement == pytest.approx(7.5)  # no caption has a fourth word for the last of four orders
    assert first[1].agreement == 0


def test_without_weight_nothing_changes():
    known, captions = training()
    memory = Reranker.store_captions(known, captions, vocabulary=VOCABULARY)
    (ranked,) = memory.ranked(known[:1], [candidates(5)], neighbours=9, weight=0.0)
    assert [one.tokens for one in ranked] == [one.tokens for one in candidates(5)]


def test_a_width_that_never_changes_tells_nothing():
    known, captions = training()
    known[:, 3] = 2.0
    memory = Reranker.store_captions(known, captions, vocabulary=VOCABULARY)
    asked = known[:1].copy()
    asked[:, 3] = 1e6
    assert memory.ranked(asked, [candidates(5)], neighbours=3, weight=1.0) == memory.ranked(
        known[:1], [candidates(5)], neighbours=3, weight=1.0
    )


def test_what_is_kept_is_what_comes_back():
    memory = Reranker.store_captions(*training(), vocabulary=VOCABULARY)
    again = Reranker.from_arrays(memory.arrays(), "here", vocabulary=VOCABULARY, width=WIDTH)
    known = np.ones((1, WIDTH), np.float32)
    assert again.ranked(known, [candidates(5)], neighbours=9, weight=1.0) == memory.ranked(
        known, [candidates(5)], neighbours=9, weight=1.0
    )


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("vectors", lambda one: one[:-1]),
        ("mean", lambda one: one[:-1]),
        ("scale", lambda one: one[:-1]),
        ("words", lambda one: one[:-1]),
        ("words", lambda one: one + VOCABULARY),
        ("words", lambda one: one - VOCABULARY),
        ("captions", lambda one: one[::-1].copy()),
        ("captions", lambda one: np.where(np.arange(len(one)) == 1, one[3], one)),
        ("pictures", lambda one: one + 1),
        ("pictures", lambda one: one[:0]),
        ("captions", lambda one: np.array([0, 2**63 - 1, -2, *one[3:]])),
        ("pictures", lambda one: one.astype(np.float64)),
        ("vectors", lambda one: one[:, :4]),
        ("vectors", lambda one: one[0, 0, ...]),
        ("vectors", lambda one: one * np.float16(np.nan)),
        ("mean", lambda one: one / np.float32(0)),
        ("words", lambda one: one.astype(np.float32)),
        ("words", lambda one: np.stack([one, one], 1)),
        ("words", lambda one: np.where(np.arange(len(one)) == 3, -1, one).astype(np.int32)),
        ("words", lambda one: np.where(np.arange(len(one)) == 3, VOCABULARY, one).astype(np.int32)),
        ("norms", lambda one: one[:, :3]),
        ("norms", lambda one: -one),
        ("rarity", lambda one: one[:-1]),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, wrong):
    arrays = Reranker.store_captions(*training(), vocabulary=VOCABULARY).arrays()
    with np.errstate(all="ignore"):
        arrays[part] = wrong(arrays[part])
    with pytest.raises(ArtefactError, match=r"here: .*store_captions.*train again"):
        Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, width=WIDTH)


def test_a_missing_or_an_unknown_part_is_refused():
    arrays = Reranker.store_captions(*training(), vocabulary=VOCABULARY).arrays()
    with pytest.raises(ArtefactError, match="here"):
        Reranker.from_arrays({**arrays, "more": arrays["mean"]}, "here", vocabulary=VOCABULARY, width=WIDTH)
    del arrays["norms"]
    with pytest.raises(ArtefactError, match="here"):
        Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, width=WIDTH)


@pytest.fixture(scope="module")
def model(trained_project):
    return TrainedModel.load(trained_project / paths.MODEL)


@pytest.fixture(scope="module")
def features(trained_project):
    cache = FeatureFile.open(trained_project / paths.FEATURES)
    return torch.from_numpy(cache.load(cache.images)).float()


def test_a_trained_model_has_all_training_captions_and_no_other(trained_project, model):
    memory = model.consensus
    captions = read_captions(trained_project / paths.CAPTIONS, "train")
    said = [model.vocabulary.decode(memory.words[start:end]) for start, end in pairwise(memory.captions)]
    assert said == [text.replace(",", "") for texts in captions.values() for text in texts]
    assert len(memory.vectors) == len(captions)
    assert np.linalg.norm(memory.vectors.astype(float), axis=1) == pytest.approx(1, abs=1e-3)


def test_the_search_asks_the_neighbours_of_the_picture(model, features):
    search = SearchOptions(beam_size=6, neighbours=3, consensus=4.0)
    found = beam_search(model.decoder, features, search, captions=6)
    chosen = model.search(features, search, captions=2)
    for all_found, best in zip(found, chosen, strict=True):
        assert len(best) == 2
        scores = [one.score + 4.0 * one.agreement for one in best]
        assert scores == sorted(scores, reverse=True)
        assert {replace(one, agreement=None) for one in best} <= set(all_found)
    likeliest = model.search(features, replace(search, neighbours=0))
    assert likeliest == beam_search(model.decoder, features, search)
    assert [one[0].tokens for one in likeliest] != [one[0].tokens for one in chosen]


def test_a_picture_has_the_same_caption_in_any_company(model, features):
    search = SearchOptions(beam_size=6, neighbours=3)
    together = model.search(features, search)
    alone = [model.search(one, search)[0] for one in features.split(1)]
    assert [[one.tokens for one in found] for found in together] == [[one.tokens for one in found] for found in alone]


def test_more_captions_than_beams_are_searched_for(model, features):
    for found in model.search(features, SearchOptions(beam_size=2, neighbours=3), captions=5):
        assert len(found) == 5


def test_all_pictures_are_remembered_and_without_dropout(model, features, monkeypatch):
    monkeypatch.setattr("pipeline.inference.model_file._CHUNK", 4)
    captions = [[[4, 5]] for _ in features]
    model.decoder.output_dropout.p = model.decoder.feature_dropout.p = 0.5
    try:
        first, again = (model.remembering(bundle_features, captions) for bundle_features in (features, features))
        model.decoder.train()
        third = model.remembering(features, captions)
    finally:
        model.decoder.output_dropout.p = model.decoder.feature_dropout.p = 0.0
        model.decoder.eval()
    assert len(first.consensus.vectors) == len(features) > 4
    assert np.array_equal(first.consensus.vectors, again.consensus.vectors)
    assert np.array_equal(first.consensus.vectors, third.consensus.vectors)


def test_without_memory_neighbours_are_refused(model, features):
    forgetful = replace(model, consensus=None)
    with pytest.raises(ParamsError, match=r"does not store_captions.*params\.train\.store_captions: true"):
        forgetful.search(features, SearchOptions(neighbours=1))
    assert forgetful.search(features, SearchOptions()) == model.search(features, SearchOptions())


def test_predict_tells_the_agreement_and_can_do_without(trained_project):
    picture = "data/tiny/images/000.png"
    _, out, _ = run_command("predict", "--json", picture, cwd=trained_project)
    (best,) = json.loads(out)["captions"]
    assert 0 < best["agreement"] <= 10
    _, out, _ = run_command("predict", "--json", "--neighbours", "0", picture, cwd=trained_project)
    (likeliest,) = json.loads(out)["captions"]
    assert set(likeliest) == {"caption", "score"}
    captioner = Captioner.load(trained_project / paths.MODEL, device="cpu")
    search = captioner.make_search(neighbours=0, beam_size=3)
    assert likeliest["caption"] == captioner(trained_project / picture, search)


def test_a_model_that_does_not_remember_is_smaller_and_says_so(project):
    set_param(project, "train.epochs", 1)
    for stage in ("prepare", "extract", "vocab", "train"):
        assert run_command(stage, cwd=project)[0] == 0
    remembering = (project / paths.MODEL).stat().st_size
    (project / paths.MODEL).unlink()
    set_param(project, "train.store_captions", False)
    code, _, said = run_command("train", cwd=project)
    assert code == 2  # before any training
    assert "score.neighbours is 60, which needs train.store_captions: true" in said
    set_param(project, "score.neighbours", 0)
    assert run_command("train", cwd=project)[0] == 0
    assert (project / paths.MODEL).stat().st_size < remembering
    set_param(project, "train.store_captions", True)
    set_param(project, "score.neighbours", 60)
    code, _, said = run_command("score", cwd=project)
    assert code == 2
    assert "neighbours: 60, but this model does not store_captions its training captions" in said
    code, _, said = run_command("predict", "--neighbours", "5", "data/tiny/images/000.png", cwd=project)
    assert code == 2
    assert "neighbours: 5" in said
    assert run_command("predict", "data/tiny/images/000.png", cwd=project)[0] == 0


def test_characters_are_not_compared_unless_asked_for(trained_project):
    captioner = Captioner.load(trained_project / paths.MODEL, device="cpu")
    captioner.vocabulary = replace(captioner.vocabulary, tokenizer=characters.NAME)
    assert captioner.make_search() == SearchOptions(no_repeat_ngram=captioner.vocabulary.no_repeat_ngram)
    assert captioner.make_search(neighbours=7).neighbours == 7
