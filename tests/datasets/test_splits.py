"""Which pictures are trained on, and which are kept for later."""

import pytest

from pipeline.datasets.entries import Row
from pipeline.datasets.splits import drawn_splits, splits_of
from pipeline.errors import DataError


def rows(**splits):
    return [Row(image, caption, split, "f", 1) for image, split in splits.items() for caption in ("one", "two")]


def own_digests(found):
    return {row.image: row.image for row in found}


def many(split, count=400, start=0):
    return rows(**{f"{number}.jpg": split for number in range(start, start + count)})


def test_the_datasets_own_splits_stand():
    found = rows(a="train", b="val", c="test")
    assert splits_of(found, own_digests(found), 1) == {"a": "train", "b": "val", "c": "test"}
    assert drawn_splits(found, own_digests(found)) is None


def test_the_split_of_a_picture_does_not_depend_on_the_others():
    found = many(None)
    splits = splits_of(found, own_digests(found), 3)
    alone = rows(**{"5.jpg": None})
    assert splits_of(alone, {"5.jpg": "x"}, 3)["5.jpg"] == splits["5.jpg"]
    assert 280 <= sum(split == "train" for split in splits.values()) <= 350
    assert splits_of(found, own_digests(found), 4) != splits


def test_a_split_that_is_lacking_is_drawn_from_the_train_pictures():
    found = many("train") + many("test", 10, 1000)
    splits = splits_of(found, own_digests(found), 1)
    assert {split for image, split in splits.items() if int(image[:-4]) < 1000} == {"train", "val"}
    assert all(splits[f"{number}.jpg"] == "test" for number in range(1000, 1010))
    assert "no val split" in drawn_splits(found, own_digests(found))


def test_copies_of_one_picture_are_drawn_together():
    found = many(None)
    digests = {row.image: str(int(row.image[:-4]) // 4) for row in found}
    splits = splits_of(found, digests, 1)
    assert set(splits.values()) == {"train", "val", "test"}
    assert all(len({splits[image] for image in digests if digests[image] == one}) == 1 for one in digests.values())


def test_copies_among_the_train_pictures_stay_together_when_val_is_drawn_from_them():
    found = many("train")
    digests = {row.image: str(int(row.image[:-4]) // 4) for row in found}
    splits = splits_of(found, digests, 1)
    assert set(splits.values()) == {"train", "val", "test"}
    assert all(len({splits[image] for image in digests if digests[image] == one}) == 1 for one in digests.values())


def test_a_copy_without_a_split_follows_the_one_that_has_one():
    found = rows(**{"b": "test", "a": None}) + many("train", 5) + many("val", 5, 50)
    digests = own_digests(found) | {"a": "same", "b": "same"}
    assert splits_of(found, digests, 1)["a"] == "test"


def test_a_picture_in_two_splits_is_refused_by_name():
    found = [Row("a", "x", "train", "f.csv", 2), Row("a", "y", "test", "f.csv", 9)]
    with pytest.raises(DataError, match=r"f.csv, line 9: a is in test and also in train"):
        splits_of(found, {"a": "1"}, 1)
