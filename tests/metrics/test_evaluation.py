"""Evaluation of raw captions."""

import pytest
from scored_captions import RAW_HYPOTHESES as CAPTIONS
from scored_captions import RAW_REFERENCES as REFERENCES
from scored_captions import SCORES

from pipeline.metrics.evaluation import evaluate


def test_captions_and_references_are_tokenized_in_the_same_way():
    found = evaluate(CAPTIONS, REFERENCES, seed=0)
    assert {name: found.scores.corpus[name] for name in SCORES} == pytest.approx(SCORES, abs=5e-5)
    assert found.hypotheses[0] == "a brown dog is running"
    assert found.lengths == {5: 1, 7: 2}
    assert found.reference_lengths == {6: 2, 8: 1, 9: 1, 11: 2}


def test_the_references_have_diversity_statistics_too():
    found = evaluate(CAPTIONS, REFERENCES, seed=0, vocabulary_size=100)
    assert found.diversity["ends_in_function_word"] == pytest.approx(1 / 3)
    assert found.reference_diversity["ends_in_function_word"] == 0
    assert found.reference_diversity["mean_length"] == pytest.approx(25 / 3)


def test_lengths_count_the_spaces_between_characters():
    found = evaluate({"1": "a cat"}, {"1": ["the cat"]}, seed=0, tokenize=list)
    assert (found.lengths, found.reference_lengths) == ({5: 1}, {7: 1})
    assert found.hypotheses == ("a c a t",)


def test_intervals_do_not_depend_on_the_order_of_the_images():
    other = dict(reversed(CAPTIONS.items()))
    found = evaluate(other, {image: REFERENCES[image] for image in other}, seed=0)
    assert found.scores.intervals == evaluate(CAPTIONS, REFERENCES, seed=0).scores.intervals
    assert list(found.captions) == list(found.references) == ["0", "1", "2"]
