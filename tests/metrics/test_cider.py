import pytest
from scored_captions import HYPOTHESES, REFERENCES

from pipeline.metrics.cider import CiderD


def test_one_image_alone_scores_zero():
    assert CiderD(REFERENCES[:1]).score([REFERENCES[0][0]]).tolist() == [0.0]


def test_a_hypothesis_equal_to_its_only_reference_scores_ten():
    captions = ["a dog runs fast", "two men play soccer", "some snow lies there"]
    assert CiderD([[caption] for caption in captions]).score(captions) == pytest.approx([10, 10, 10])


def test_words_of_every_image_weigh_nothing():
    cider = CiderD([["a dog runs on"], ["a man sits on"]])
    assert cider.score(["a a a on", "on a"]).tolist() == [0.0, 0.0]


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


@pytest.mark.parametrize(
    "score", [lambda cider: cider.score_many([0, 1], ["a dog"]), lambda cider: cider.score(["a dog"])]
)
def test_there_are_as_many_hypotheses_as_images(score):
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        score(CiderD(REFERENCES[:2]))
