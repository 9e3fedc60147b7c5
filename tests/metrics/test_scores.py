import pytest
from scored_captions import HYPOTHESES, REFERENCES, SCORES, every_case

from pipeline.metrics.registry import METRICS, TITLES
from pipeline.metrics.scores import compare, score

DEFAULT_SCORES = [name for entry in METRICS.values() if not entry.optional for name in entry.titles]


def test_every_score_lies_in_its_interval():
    scores = score(HYPOTHESES * 30, REFERENCES * 30, seed=0)
    assert list(scores.intervals) == DEFAULT_SCORES
    assert set(DEFAULT_SCORES) < set(TITLES)
    for name in SCORES:
        low, high = scores.intervals[name]
        assert low < scores.corpus[name] < high


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    first, again, other = (score(HYPOTHESES * 30, REFERENCES * 30, seed=seed) for seed in (1, 1, 2))
    assert first.intervals == again.intervals
    assert first.intervals != other.intervals
    assert first.corpus == other.corpus


@every_case
def test_scores_of_the_set_and_of_single_images_equal_pycocoevalcap(case):
    scores = score(case.hypotheses, case.references, seed=0)
    bleu = [scores.corpus[f"bleu_{n}"] / 100 for n in (1, 2, 3, 4)]
    assert bleu == pytest.approx(case.bleu, abs=1e-9)
    assert scores.per_image["bleu_4"] / 100 == pytest.approx(case.bleu_4, abs=1e-9)
    assert scores.per_image["cider_d"] / 100 == pytest.approx(case.cider_d, abs=1e-9)
    assert scores.per_image["rouge_l"] / 100 == pytest.approx(case.rouge_l, abs=1e-9)


def test_compare_finds_the_better_of_two_systems():
    better = score(HYPOTHESES * 20, REFERENCES * 20, seed=0)
    worse = score(["a man", "a zebra is grazing here", "snow on a red coat"] * 20, REFERENCES * 20, seed=0)
    found = compare(worse, better, seed=0)
    assert list(found) == DEFAULT_SCORES
    for name in SCORES:
        change = found[name]
        assert change.difference == pytest.approx(better.corpus[name] - worse.corpus[name])
        assert 0 < change.low < change.difference < change.high
        assert change.p_value < 0.01


def test_a_system_does_not_differ_from_itself():
    scores = score(HYPOTHESES, REFERENCES, seed=0)
    assert {(one.difference, one.p_value) for one in compare(scores, scores, seed=0).values()} == {(0.0, 1.0)}


def test_scores_of_different_images_are_not_compared():
    scores, fewer = score(HYPOTHESES, REFERENCES, seed=0), score(HYPOTHESES[:2], REFERENCES[:2], seed=0)
    with pytest.raises(ValueError, match="same images"):
        compare(scores, fewer, seed=0)
