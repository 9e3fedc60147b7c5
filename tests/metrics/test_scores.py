import subprocess
import sys

import pytest
from scored_captions import HYPOTHESES, REFERENCES, every_case

from pipeline.metrics.scores import SCORES, compare, score


def test_the_card_of_the_known_case_is_in_percent():
    card = score(HYPOTHESES, REFERENCES, seed=0)
    assert card.pictures == 3
    assert list(card.scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l"]
    expected = [72.9213, 70.6057, 67.5038, 62.9483, 390.8887, 70.9702]
    assert list(card.scores.values()) == pytest.approx(expected, abs=5e-5)


def test_every_score_lies_in_its_interval():
    card = score(HYPOTHESES * 30, REFERENCES * 30, seed=0)
    assert tuple(card.intervals) == SCORES
    for name, (low, high) in card.intervals.items():
        assert low < card.scores[name] < high


def test_the_same_seed_gives_the_same_card_and_another_seed_other_intervals():
    first, again, other = (score(HYPOTHESES * 30, REFERENCES * 30, seed=seed) for seed in (1, 1, 2))
    assert first.intervals == again.intervals
    assert first.intervals != other.intervals
    assert first.scores == other.scores


@every_case
def test_scores_of_single_pictures_are_equal_to_pycocoevalcap(case):
    card = score(case.hypotheses, case.references, seed=0, resamples=10)
    assert card.per_image["bleu_4"] / 100 == pytest.approx(case.bleu_4, abs=1e-9)
    assert card.per_image["cider_d"] / 100 == pytest.approx(case.cider_d, abs=1e-9)
    assert card.per_image["rouge_l"] / 100 == pytest.approx(case.rouge_l, abs=1e-9)


def test_cider_and_rouge_of_the_set_are_means_over_pictures():
    card = score(HYPOTHESES, REFERENCES, seed=0)
    for name in ("cider_d", "rouge_l"):
        assert card.per_image[name].mean() == pytest.approx(card.scores[name])


def test_compare_finds_the_better_of_two_systems():
    better = score(HYPOTHESES * 20, REFERENCES * 20, seed=0)
    worse = score(["a man", "a zebra is grazing here", "snow on a red coat"] * 20, REFERENCES * 20, seed=0)
    found = compare(worse, better, seed=0)
    assert tuple(found) == SCORES
    for name, change in found.items():
        assert change.difference == pytest.approx(better.scores[name] - worse.scores[name])
        assert 0 < change.low < change.difference < change.high
        assert change.p_value < 0.01


def test_a_system_compared_with_itself_does_not_differ():
    card = score(HYPOTHESES, REFERENCES, seed=0)
    assert {(c.difference, c.p_value) for c in compare(card, card, seed=0).values()} == {(0.0, 1.0)}


def test_cards_of_different_pictures_are_not_compared():
    card, shorter = score(HYPOTHESES, REFERENCES, seed=0), score(HYPOTHESES[:2], REFERENCES[:2], seed=0)
    with pytest.raises(ValueError, match="same pictures"):
        compare(card, shorter, seed=0)


def test_importing_the_scores_imports_neither_torch_nor_pandas_nor_sacrebleu():
    code = "import sys, pipeline.metrics; print({'torch', 'pandas', 'sacrebleu'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
