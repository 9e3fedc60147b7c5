"""Comparison of two systems on the same images."""

import pytest

from pipeline.errors import DataError
from pipeline.metrics.comparison import compare_captions

REFERENCES = {
    "0": ["A dog runs on the grass.", "The brown dog is running on the green grass.", "A dog running outside on grass"],
    "1": ["Two men play soccer on a wide field!", "Two people are playing a game of soccer in a field."],
    "2": ["A child, in a red coat, is standing in the snow."],
}
CAPTIONS = {"0": "A brown dog is running.", "1": "two men play soccer in a field", "2": "a child in a red coat is"}


def test_changes_are_sorted_by_how_much_they_matter():
    worse = {"0": "a brown dog is running", "1": "a zebra", "2": "a child in a blue coat is"}
    found = compare_captions(worse, CAPTIONS, REFERENCES, seed=0)
    assert [change.image for change in found.changes] == ["1", "2"]  # 0 differs in case and a full stop alone
    assert found.changes[0].difference > found.changes[1].difference > 0
    assert found.changes[0].first == "a zebra"
    assert found.differences["bleu_1"].difference == pytest.approx(
        found.second.scores.corpus["bleu_1"] - found.first.scores.corpus["bleu_1"]
    )


def test_only_images_that_both_have_are_compared():
    found = compare_captions({"0": "a dog", "1": "men"}, {"1": "two men", "2": "a child"}, REFERENCES, seed=0)
    assert list(found.first.captions) == ["1"]
    assert found.left_out == 2
    with pytest.raises(DataError, match="no image in common"):
        compare_captions({"0": "a dog"}, {"1": "two men"}, REFERENCES, seed=0)
