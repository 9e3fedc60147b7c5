import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES, every_case

from pipeline.metrics.cider import CiderD


def test_cider_of_the_known_case():
    assert CiderD(REFERENCES).score(HYPOTHESES).mean() == pytest.approx(3.908887, abs=5e-7)


@every_case
def test_cider_equals_pycocoevalcap(case):
    assert CiderD(case.references).score(case.hypotheses) == pytest.approx(case.cider_d, abs=1e-9)


def test_one_image_alone_scores_zero():
    assert CiderD(REFERENCES[:1]).score([REFERENCES[0][0]]).tolist() == [0.0]


def test_a_hypothesis_equal_to_its_only_reference_scores_ten():
    captions = ["a dog runs fast", "two men play soccer", "some snow lies there"]
    assert CiderD([[caption] for caption in captions]).score(captions) == pytest.approx([10, 10, 10])


def test_words_of_every_image_weigh_nothing():
    cider = CiderD([["a dog runs on"], ["a man sits on"]])
    assert cider.score(["a a a on", "on a"]).tolist() == [0.0, 0.0]


def test_unknown_words_lower_the_score():
    cider = CiderD(REFERENCES)
    known, unknown = cider.score_many([0, 0], ["a brown dog is running", "a brown dog is zorbing"])
    assert 0 < unknown < known


def test_repeating_a_word_does_not_raise_the_score():
    cider = CiderD(REFERENCES)
    once, often = cider.score_many([0, 0], ["dog", "dog dog dog dog"])
    assert often < once


def test_several_hypotheses_of_one_image_score_as_each_does_alone():
    cider = CiderD(REFERENCES)
    others = ["a dog on the grass", HYPOTHESES[1], "zebras on the grass"]
    in_order, with_others = cider.score(HYPOTHESES), cider.score(others)
    captions = [HYPOTHESES[2], others[0], HYPOTHESES[0], HYPOTHESES[1], others[2]]
    sampled = cider.score_many([2, 0, 0, 1, 2], captions)
    expected = [in_order[2], with_others[0], in_order[0], in_order[1], with_others[2]]
    assert sampled == pytest.approx(expected, abs=1e-12)


def test_no_hypotheses_have_no_scores():
    assert CiderD(REFERENCES).score_many([], []).shape == (0,)


def test_scoring_leaves_the_scorer_as_it_was():
    cider = CiderD(REFERENCES)
    before = cider.score(HYPOTHESES)
    cider.score(["zebras graze", "zebras", ""])
    assert cider.score(HYPOTHESES).tolist() == before.tolist()


def test_captions_without_any_word_score_zero():
    assert CiderD([[""], ["", ""]]).score(["a dog", ""]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_without_an_image_is_refused(index):
    with pytest.raises(ValueError, match=r"`indices` must be in \[0, 3\)"):
        CiderD(REFERENCES).score_many(np.array([index]), ["a dog"])


def test_every_hypothesis_needs_an_index():
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        CiderD(REFERENCES).score_many([0, 1], ["a dog"])
