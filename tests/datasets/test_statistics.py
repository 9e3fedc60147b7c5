import pytest

from pipeline.datasets.statistics import caption_statistics

SPLITS = {
    "train": {"1": ["A dog runs.", "a dog runs"], "2": ["a cat sits", "the cat", "two cats"]},
    "val": {"3": ["A dog runs!"]},
    "test": {"4": ["a zebra grazes"]},
}


def test_captions_are_counted_by_split_image_and_length():
    found = caption_statistics(SPLITS)
    assert found.images == {"train": 2, "val": 1, "test": 1}
    assert found.captions == {"train": 5, "val": 1, "test": 1}
    assert found.captions_per_image == {1: 2, 2: 1, 3: 1}
    assert found.lengths == {2: 2, 3: 5}
    assert (found.words, found.distinct_words, found.used_once) == (19, 10, 6)


def test_repeated_captions_are_compared_as_tokens():
    found = caption_statistics(SPLITS)
    assert found.repeated == 2
    assert found.repeated_across_splits == 1
    assert found.most_repeated == (("a dog runs", 3),)


def test_vocabulary_growth():
    growth = caption_statistics(SPLITS).growth
    assert growth[0] == (1, 3)
    assert growth[-1] == (7, 10)
    assert list(growth) == sorted(growth)


def test_coverage_by_vocabularies_of_the_train_split():
    coverage = {one.min_count: one for one in caption_statistics(SPLITS).coverage}
    assert coverage[1].words == 8
    assert coverage[1].by_split == {"train": 1.0, "val": 1.0, "test": pytest.approx(1 / 3)}
    assert coverage[2].words == 4
    assert coverage[2].by_split["train"] == pytest.approx(9 / 13)
    assert coverage[20].by_split == {"train": 0.0, "val": 0.0, "test": 0.0}


def test_equally_frequent_words_are_in_alphabetical_order():
    assert caption_statistics(SPLITS).frequent[:5] == (("a", 5), ("dog", 3), ("runs", 3), ("cat", 2), ("cats", 1))


def test_captions_are_counted_in_characters():
    found = caption_statistics({"train": {"1": ["\u4e00\u53ea\u72d7", "\u4e00\u53ea\u72d7"]}}, "character")
    assert (found.unit, found.lengths, found.distinct_words) == ("characters", {3: 2}, 3)
    assert found.most_repeated == (("\u4e00\u53ea\u72d7", 2),)
