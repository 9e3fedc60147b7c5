"""Re-ranking beam hypotheses by CIDEr-D against the captions of the nearest training images."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import run_command, set_param

from pipeline import Captioner, paths
from pipeline.datasets.tables import read_captions
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.search import Hypothesis, SearchOptions
from pipeline.device import single_threaded
from pipeline.errors import ArtefactError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.reranking import Reranker, largest
from pipeline.options import RerankOptions
from pipeline.text import character_tokenizer

HIDDEN, VOCABULARY = 8, 30


def training(images=40, seed=0):
    """Image vectors and the token ids of captions."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(images, HIDDEN)).astype(np.float32)
    captions = [
        [random.integers(4, VOCABULARY, random.integers(1, 14)).tolist() for _ in range(random.integers(1, 6))]
        for _ in range(images)
    ]
    return vectors, captions


def hypothesis(tokens, score):
    return Hypothesis(tuple(tokens), log_probability=score * len(tokens), score=score)


def hypotheses(count, seed=1):
    random = np.random.default_rng(seed)
    return [hypothesis(random.integers(4, 12, random.integers(0, 10)).tolist(), -1.0 - n) for n in range(count)]


class Reference:
    """The definition, computed for one pair of captions at a time."""

    def __init__(self, vectors, captions):
        self.captions = captions
        self.mean, self.deviation = vectors.mean(0), vectors.std(0)
        self.vectors = [self.normalized(row) for row in vectors]
        frequency = Counter(token for texts in captions for token in {token for text in texts for token in text})
        self.idf = [math.log(len(captions) / max(frequency[token], 1)) for token in range(VOCABULARY)]

    def normalized(self, row):
        row = (row - self.mean) / self.deviation
        return row / np.linalg.norm(row)

    def ngram_weights(self, caption, size):
        counts = Counter(tuple(caption[at : at + size]) for at in range(len(caption) - size + 1))
        return {ngram: n * sum(self.idf[token] for token in ngram) / size for ngram, n in counts.items()}

    def similarity(self, ours, theirs):
        total = 0.0
        for size in range(1, 5):
            one, other = self.ngram_weights(ours, size), self.ngram_weights(theirs, size)
            norms = math.hypot(*one.values()) * math.hypot(*other.values())
            shared = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in one.items() if ngram in other)
            total += shared / norms if norms else 0.0
        return 10 / 4 * total * math.exp(-((len(ours) - len(theirs)) ** 2) / (2 * 6.0**2))

    def agreement(self, row, ours, neighbors):
        query = self.normalized(row)
        cosines = sorted(((float(query @ vector), -at) for at, vector in enumerate(self.vectors)), reverse=True)
        nearest = cosines[:neighbors]
        weights = [math.exp((cosine - nearest[0][0]) / 0.15) for cosine, _ in nearest]
        means = [np.mean([self.similarity(ours, theirs) for theirs in self.captions[-at]]) for _, at in nearest]
        return float(np.dot(weights, means) / sum(weights))


@pytest.mark.parametrize(("neighbors", "weight"), [(1, 2.5), (7, 0.0), (40, 2.5), (400, 2.5)])
def test_the_agreement_follows_the_definition(neighbors, weight):
    vectors, captions = training()
    reranker = Reranker.build(vectors, captions, vocabulary=VOCABULARY)
    reference = Reference(vectors, captions)
    queries = np.random.default_rng(5).normal(size=(3, HIDDEN)).astype(np.float32)
    found = [hypotheses(6, seed) for seed in range(3)]
    reranked = reranker.rerank(queries, found, RerankOptions(neighbors=neighbors, weight=weight))
    for row, before, after in zip(queries, found, reranked, strict=True):
        agreement = [reference.agreement(row, one.tokens, neighbors) for one in before]
        order = sorted(range(len(before)), key=lambda place: -before[place].score - weight * agreement[place])
        assert [one.tokens for one in after] == [before[place].tokens for place in order]
        assert [one.score for one in after] == [before[place].score for place in order]
        # The stored vectors are float16.
        assert [one.agreement for one in after] == pytest.approx([agreement[place] for place in order], abs=0.01)
        assert max(agreement) - min(agreement) > 0.1


def test_the_agreement_stays_between_0_and_10_for_any_stored_norms():
    arrays = Reranker.build(*training(), vocabulary=VOCABULARY).arrays()
    arrays["norms"] = arrays["norms"] * np.float32(1e-30)
    reranker = Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, hidden=HIDDEN)
    (found,) = reranker.rerank(
        np.ones((1, HIDDEN), np.float32), [hypotheses(6)], RerankOptions(neighbors=9, weight=1.0)
    )
    assert max(one.agreement for one in found) == 10


def test_of_two_equally_likely_captions_the_one_of_similar_images_wins():
    vectors = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0) + np.linspace(0, 0.01, 20, dtype=np.float32)[:, None]
    captions = [[[4, 5, 6]]] * 10 + [[[7, 8, 9]]] * 10
    reranker = Reranker.build(vectors, captions, vocabulary=10)
    found = [[hypothesis((4, 5, 6), -1.0), hypothesis((7, 8, 9), -1.0)]] * 2
    first, second = reranker.rerank(vectors[[0, 15]], found, RerankOptions(neighbors=5, weight=4.0))
    assert [one.tokens for one in first] == [(4, 5, 6), (7, 8, 9)]
    assert [one.tokens for one in second] == [(7, 8, 9), (4, 5, 6)]
    assert first[0].agreement == pytest.approx(7.5)  # no caption has a 4-gram, the last of four orders
    assert first[1].agreement == 0


def test_a_constant_dimension_of_the_vectors_is_ignored():
    vectors, captions = training()
    vectors[:, 3] = 2.0
    reranker = Reranker.build(vectors, captions, vocabulary=VOCABULARY)
    other = vectors[:1].copy()
    other[:, 3] = 1e6
    options = RerankOptions(neighbors=3, weight=1.0)
    assert reranker.rerank(other, [hypotheses(5)], options) == reranker.rerank(vectors[:1], [hypotheses(5)], options)


@pytest.mark.parametrize("options", [{"neighbors": -1}, {"weight": -1.0}, {"weight": math.nan}, {"weight": math.inf}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RerankOptions(**options)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("vectors", lambda array: array[:-1]),
        ("mean", lambda array: array[:-1]),
        ("more", lambda array: np.zeros(3, np.float32)),
        ("tokens", lambda array: array[:-1]),
        ("caption_starts", lambda array: array[::-1].copy()),
        ("caption_starts", lambda array: np.where(np.arange(len(array)) == 1, array[3], array)),
        ("image_starts", lambda array: array + 1),
        ("image_starts", lambda array: array[:0]),
        ("caption_starts", lambda array: np.array([0, 2**63 - 1, -2, *array[3:]])),
        ("vectors", lambda array: array[:, :4]),
        ("vectors", lambda array: array * np.float16(np.nan)),
        ("mean", lambda array: array / np.float32(0)),
        ("tokens", lambda array: array.astype(np.float32)),
        ("tokens", lambda array: np.stack([array, array], 1)),
        ("tokens", lambda array: np.where(np.arange(len(array)) == 3, -1, array).astype(np.int32)),
        ("tokens", lambda array: np.where(np.arange(len(array)) == 3, VOCABULARY, array).astype(np.int32)),
        ("norms", lambda array: array[:, :3]),
        ("norms", lambda array: -array),
        ("idf", lambda array: array[:-1]),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(name, wrong):
    arrays = Reranker.build(*training(), vocabulary=VOCABULARY).arrays()
    Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, hidden=HIDDEN)
    with np.errstate(all="ignore"):
        arrays[name] = wrong(arrays.get(name))
    with pytest.raises(ArtefactError, match=r"here: .*re-ranker.*train again"):
        Reranker.from_arrays(arrays, "here", vocabulary=VOCABULARY, hidden=HIDDEN)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads cost more than they gain for these small decoders."""
    with single_threaded():
        yield


@pytest.fixture(scope="module")
def model(trained_project):
    return TrainedModel.load(trained_project / paths.MODEL)


@pytest.fixture(scope="module")
def features(trained_project):
    file = FeatureFile.open(trained_project / paths.FEATURES)
    return torch.from_numpy(file.load(file.images)).float()


def test_a_trained_model_stores_all_training_captions_and_no_other(trained_project, model):
    reranker = model.reranker
    captions = read_captions(trained_project / paths.CAPTIONS, "train")
    stored = [model.vocabulary.decode(reranker.tokens[start:end]) for start, end in pairwise(reranker.caption_starts)]
    assert stored == [text.replace(",", "") for texts in captions.values() for text in texts]
    assert len(reranker.vectors) == len(captions)
    assert np.linalg.norm(reranker.vectors.astype(float), axis=1) == pytest.approx(1, abs=1e-3)


def test_a_search_with_neighbors_reranks_its_hypotheses(model, features):
    search, rerank = SearchOptions(beam_size=6), RerankOptions(neighbors=3, weight=4.0)
    searched = beam_search(model.decoder, features, search, captions=6)
    reranked = model.search(features, search, rerank, captions=2)
    for hypotheses, best in zip(searched, reranked, strict=True):
        assert len(best) == 2
        ranks = [one.score + 4.0 * one.agreement for one in best]
        assert ranks == sorted(ranks, reverse=True)
        assert {replace(one, agreement=None) for one in best} <= set(hypotheses)
    plain = model.search(features, search)
    assert plain == beam_search(model.decoder, features, search)
    reordered = model.search(features, search, rerank, captions=6)
    assert [[one.tokens for one in found] for found in reordered] != [
        [one.tokens for one in found] for found in searched
    ]


def test_the_caption_of_an_image_does_not_depend_on_the_batch(model, features):
    search, rerank = SearchOptions(beam_size=6), RerankOptions(neighbors=3)
    together = model.search(features, search, rerank)
    alone = [model.search(one, search, rerank)[0] for one in features.split(1)]
    assert [[one.tokens for one in found] for found in together] == [[one.tokens for one in found] for found in alone]


def test_the_beam_is_at_least_as_wide_as_the_number_of_captions(model, features):
    for found in model.search(features, SearchOptions(beam_size=2), RerankOptions(neighbors=3), captions=5):
        assert len(found) == 5


def test_image_vectors_are_computed_in_batches_and_without_dropout(model, features):
    captions = [[[4, 5]] for _ in features]
    model.decoder.output_dropout.p = model.decoder.feature_dropout.p = 0.5
    try:
        first, second = (model.with_reranker(features.split(size), captions) for size in (4, 64))
        model.decoder.train()
        third = model.with_reranker([features], captions)
    finally:
        model.decoder.output_dropout.p = model.decoder.feature_dropout.p = 0.0
        model.decoder.eval()
    assert len(first.reranker.vectors) == len(features) > 4
    assert np.allclose(first.reranker.vectors, second.reranker.vectors, atol=1e-3)
    assert np.array_equal(second.reranker.vectors, third.reranker.vectors)


def test_of_equal_values_the_first_are_the_largest():
    values = np.random.default_rng(0).integers(0, 4, (50, 40)).astype(float)
    found, indices = largest(values, 7)
    assert indices.tolist() == [sorted(range(40), key=lambda i: (-row[i], i))[:7] for row in values]
    assert np.array_equal(found, np.take_along_axis(values, indices, 1))


def test_a_model_without_training_captions_cannot_rerank(model, features):
    without = replace(model, reranker=None)
    with pytest.raises(ParamsError, match=r"does not store its training captions.*params\.train\.store_captions: true"):
        without.search(features, SearchOptions(), RerankOptions(neighbors=1))
    assert without.search(features, SearchOptions()) == model.search(features, SearchOptions())


def test_predict_prints_the_agreement_and_can_do_without_reranking(trained_project, captioner):
    image = "data/tiny/images/000.png"
    _, out, _ = run_command("predict", "--json", image, cwd=trained_project)
    (best,) = json.loads(out)["captions"]
    assert 0 < best["agreement"] <= 10
    _, out, _ = run_command("predict", "--json", "--neighbors", "0", image, cwd=trained_project)
    (best,) = json.loads(out)["captions"]
    assert set(best) == {"caption", "score"}
    assert best["caption"] == captioner(trained_project / image, captioner.generation_options(neighbors=0))


def test_reranked_scores_of_the_train_split_get_a_warning(trained_project, tmp_path):
    folder = shutil.copytree(trained_project, tmp_path / "copy", symlinks=True)
    set_param(folder, "score.split", "train")
    for neighbors in (60, 0):
        set_param(folder, "score.rerank", {"neighbors": neighbors})
        code, _, err = run_command("score", cwd=folder)
        assert (code, "each training image is its own nearest neighbor" in err) == (0, neighbors > 0)


@pytest.mark.slow
def test_a_model_file_without_training_captions_is_smaller_and_refuses_neighbors(project):
    set_param(project, "train.epochs", 1)
    for stage in ("prepare", "extract", "vocab", "train"):
        assert run_command(stage, cwd=project)[0] == 0
    with_captions = (project / paths.MODEL).stat().st_size
    (project / paths.MODEL).unlink()
    set_param(project, "train.store_captions", False)
    code, _, message = run_command("train", cwd=project)
    assert code == 2  # before any training
    assert "score.rerank.neighbors" in message
    assert "train.store_captions: true" in message
    set_param(project, "score.rerank", {"neighbors": 0, "weight": 4.0})
    assert run_command("train", cwd=project)[0] == 0
    assert (project / paths.MODEL).stat().st_size < with_captions
    set_param(project, "train.store_captions", True)
    set_param(project, "score.rerank", {"neighbors": 60, "weight": 4.0})
    code, _, message = run_command("score", cwd=project)
    assert code == 2
    assert "neighbors: 60, but this model does not store its training captions" in message
    code, _, message = run_command("predict", "--neighbors", "5", "data/tiny/images/000.png", cwd=project)
    assert code == 2
    assert "neighbors: 5" in message
    assert run_command("predict", "data/tiny/images/000.png", cwd=project)[0] == 0


def test_characters_are_reranked_only_on_request(trained_project):
    captioner = Captioner.load(trained_project / paths.MODEL, device="cpu")
    captioner.vocabulary = replace(captioner.vocabulary, tokenizer=character_tokenizer.NAME)
    assert captioner.generation_options().rerank.neighbors == 0
    assert captioner.generation_options().search.beam_size == 5
    assert captioner.generation_options(neighbors=7).rerank.neighbors == 7
