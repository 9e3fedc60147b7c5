"""Captions as people write them, scored and compared."""

import pytest

from pipeline.errors import DataError
from pipeline.metrics.evaluation import compare_captions, evaluate

REFERENCES = {
    "0": ["A dog runs on the grass.", "The brown dog is running on the green grass.", "A dog running outside on grass"],
    "1": ["Two men play soccer on a wide field!", "Two people are playing a game of soccer in a field."],
    "2": ["A child, in a red coat, is standing in the snow."],
}
CAPTIONS = {"0": "A brown dog is running.", "1": "two men play soccer in a field", "2": "a child in a red coat is"}


def test_captions_and_references_are_tokenised_alike():
    found = evaluate(CAPTIONS, REFERENCES, seed=0)
    expected = [72.9213, 70.6057, 67.5038, 62.9483, 390.8887, 70.9702]
    assert list(found.scores.scores.values()) == pytest.approx(expected, abs=5e-5)
    assert found.tokens[0] == ("a", "brown", "dog", "is", "running")
    assert found.lengths == {5: 1, 7: 2}
    assert found.reference_lengths == {6: 2, 8: 1, 9: 1, 11: 2}


def test_signs_of_the_references_stand_beside_those_of_the_captions():
    found = evaluate(CAPTIONS, REFERENCES, seed=0, vocabulary_size=100)
    assert found.diversity["ends_in_function_word"] == pytest.approx(1 / 3)
    assert found.of_references["ends_in_function_word"] == 0
    assert found.of_references["mean_length"] == pytest.approx(25 / 3)


def test_metrics_are_rounded_numbers():
    found = evaluate(CAPTIONS, REFERENCES, seed=0).metrics()
    assert found["bleu_4"] == 62.9483
    assert found["pictures"] == 3
    assert set(found["intervals"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider_d", "rouge_l"}
    assert found["signature"].startswith("nrefs:var")


def test_other_pictures_or_another_order_are_refused():
    with pytest.raises(DataError, match="captions of 3 pictures cannot be scored with references of 2"):
        evaluate(CAPTIONS, {key: REFERENCES[key] for key in "01"}, seed=0)
    with pytest.raises(DataError, match="cannot be scored"):
        evaluate(CAPTIONS, {key: REFERENCES[key] for key in "102"}, seed=0)
    with pytest.raises(DataError, match="no references to score with: 1"):
        evaluate(CAPTIONS, {**REFERENCES, "1": []}, seed=0)


def test_changes_are_sorted_by_how_much_they_matter():
    worse = {"0": "a brown dog is running", "1": "a zebra", "2": "a child in a blue coat is"}
    found = compare_captions(worse, CAPTIONS, REFERENCES, seed=0)
    assert [change.picture for change in found.changes] == ["1", "2"]  # 0 differs in case and a full stop alone
    assert found.changes[0].difference > found.changes[1].difference > 0
    assert found.changes[0].first == "a zebra"
    assert found.differences["bleu_1"].difference == pytest.approx(
        found.second.scores.scores["bleu_1"] - found.first.scores.scores["bleu_1"]
    )


def test_only_pictures_that_both_have_are_compared():
    found = compare_captions({"0": "a dog", "1": "men"}, {"1": "two men", "2": "a child"}, REFERENCES, seed=0)
    assert list(found.first.captions) == ["1"]
    assert found.left_out == 2
    with pytest.raises(DataError, match="no picture in common"):
        compare_captions({"0": "a dog"}, {"1": "two men"}, REFERENCES, seed=0)
