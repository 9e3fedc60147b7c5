import pytest

from pipeline.metrics.cider import CiderD
from pipeline.metrics.scores import score

SCORERS = {
    "CiderD": lambda hypotheses, references: CiderD(references).score(hypotheses),
    "score": lambda hypotheses, references: score(hypotheses, references, seed=0, resamples=2),
}
every_scorer = pytest.mark.parametrize("scorer", SCORERS.values(), ids=list(SCORERS))


@every_scorer
def test_lists_of_different_lengths_are_refused_with_both_lengths(scorer):
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        scorer(["a dog"], [["a dog"], ["a man"]])


@every_scorer
def test_an_image_without_references_is_refused_with_its_index(scorer):
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        scorer(["a dog", "a man"], [["a dog"], []])


@every_scorer
def test_a_string_in_place_of_references_is_refused(scorer):
    with pytest.raises(ValueError, match=r"references\[0\] must be a sequence of captions, got 'a dog'"):
        scorer(["a dog", "a man"], ["a dog", "a man"])


@every_scorer
def test_no_images_are_refused(scorer):
    with pytest.raises(ValueError, match="no images"):
        scorer([], [])
