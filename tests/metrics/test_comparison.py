"""Comparison of two systems on the same images."""

import pytest
from scored_captions import RAW_HYPOTHESES as CAPTIONS
from scored_captions import RAW_REFERENCES as REFERENCES

from pipeline.errors import DataError
from pipeline.metrics.comparison import compare_captions


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
