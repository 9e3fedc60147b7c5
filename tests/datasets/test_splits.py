"""Assignment of images to splits."""

from collections import Counter

import pytest

from pipeline.datasets.entries import CaptionEntry
from pipeline.datasets.splits import EXACT_BELOW, assign_splits, describe_drawn_splits
from pipeline.errors import DataError


def rows(**splits):
    return [
        CaptionEntry("f", 1, image, caption, split) for image, split in splits.items() for caption in ("one", "two")
    ]


def unique_digests(found):
    return {row.image: row.image for row in found}


def many(split, count=400, start=0):
    return rows(**{f"{number}.jpg": split for number in range(start, start + count)})


def test_splits_of_the_dataset_are_kept():
    found = rows(a="train", b="val", c="test")
    assert assign_splits(found, unique_digests(found), 1) == {"a": "train", "b": "val", "c": "test"}
    assert describe_drawn_splits(found, unique_digests(found)) is None


def test_the_split_of_an_image_does_not_depend_on_the_others():
    found = many(None)
    splits = assign_splits(found, unique_digests(found), 3)
    some = many(None, EXACT_BELOW)
    assert all(splits[image] == split for image, split in assign_splits(some, unique_digests(some), 3).items())
    assert 280 <= sum(split == "train" for split in splits.values()) <= 350
    assert assign_splits(found, unique_digests(found), 4) != splits


@pytest.mark.parametrize("own", [None, "train"])
def test_of_few_images_exact_tenths_are_drawn(own):
    for seed in range(20):
        found = many(own, 40)
        counts = Counter(assign_splits(found, unique_digests(found), seed).values())
        assert counts == {"train": 32, "val": 4, "test": 4}


def test_a_missing_split_is_drawn_from_the_train_images():
    found = many("train") + many("test", 10, 1000)
    splits = assign_splits(found, unique_digests(found), 1)
    assert {split for image, split in splits.items() if int(image[:-4]) < 1000} == {"train", "val"}
    assert all(splits[f"{number}.jpg"] == "test" for number in range(1000, 1010))
    drawn = "a tenth of its train images is drawn for"
    assert describe_drawn_splits(found, unique_digests(found)) == f"the dataset has no val split: {drawn} it"
    both = many("train")
    assert describe_drawn_splits(both, unique_digests(both)).endswith(f"no val and no test split: {drawn} each")


@pytest.mark.parametrize("own", [None, "train"])
def test_copies_of_an_image_are_drawn_together(own):
    found = many(own)
    digests = {row.image: str(int(row.image[:-4]) // 4) for row in found}
    splits = assign_splits(found, digests, 1)
    assert set(splits.values()) == {"train", "val", "test"}
    assert all(len({splits[image] for image in digests if digests[image] == one}) == 1 for one in digests.values())


def test_a_copy_without_a_split_follows_the_one_with_a_split():
    found = rows(**{"b": "test", "a": None}) + many("train", 5) + many("val", 5, 50)
    digests = unique_digests(found) | {"a": "same", "b": "same"}
    assert assign_splits(found, digests, 1)["a"] == "test"


def test_an_image_in_two_splits_is_refused():
    found = [CaptionEntry("f.csv", 2, "a", "x", "train"), CaptionEntry("f.csv", 9, "a", "y", "test")]
    with pytest.raises(DataError, match=r"f.csv, line 9: a is in test and also in train"):
        assign_splits(found, {"a": "1"}, 1)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_each_drawn_split_gets_an_image(count):
    found = many(None, count)
    for seed in range(20):
        splits = assign_splits(found, unique_digests(found), seed)
        assert set(splits.values()) == {"train", "val", "test"}
        assert splits == assign_splits(found[::-1], unique_digests(found), seed)


def test_a_missing_split_gets_a_train_image():
    found = many("train", 3) + many("val", 2, 50)
    splits = assign_splits(found, unique_digests(found), 1)
    assert sorted(splits.values()) == ["test", "train", "train", "val", "val"]


def test_train_keeps_an_image_and_copies_move_together():
    found = many(None, 4)
    digests = {image: "same" if image != "3.jpg" else "other" for image in unique_digests(found)}
    for seed in range(20):
        splits = assign_splits(found, digests, seed)
        assert {"train", "val"} <= set(splits.values())
        assert len({splits[image] for image in ("0.jpg", "1.jpg", "2.jpg")}) == 1
    assert set(assign_splits(many(None, 1), {"0.jpg": "x"}, 2).values()) == {"train"}
