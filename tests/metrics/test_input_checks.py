import pytest

from pipeline.metrics.bleu import bleu_statistics, corpus_bleu
from pipeline.metrics.cider import CiderD
from pipeline.metrics.rouge import rouge_l
from pipeline.metrics.scores import score

SCORES = [
    corpus_bleu,
    bleu_statistics,
    rouge_l,
    lambda hypotheses, references: CiderD(references).score(hypotheses),
    lambda hypotheses, references: score(hypotheses, references, seed=0, resamples=2),
]
every_score = pytest.mark.parametrize("scored", SCORES, ids=["corpus", "counts", "rouge", "cider", "card"])


@every_score
def test_lists_of_different_lengths_are_refused_with_both_lengths(scored):
    with pytest.raises(ValueError, match="got 1 for 2 pictures"):
        scored(["a dog"], [["a dog"], ["a man"]])


@every_score
def test_a_picture_without_references_is_refused_with_its_index(scored):
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        scored(["a dog", "a man"], [["a dog"], []])


@every_score
def test_a_string_in_place_of_references_is_refused(scored):
    with pytest.raises(ValueError, match=r"references\[0\] must be a sequence of captions, got 'a dog'"):
        scored(["a dog", "a man"], ["a dog", "a man"])


@every_score
def test_a_set_without_pictures_is_refused(scored):
    with pytest.raises(ValueError, match="no pictures"):
        scored([], [])
