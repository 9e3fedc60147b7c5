"""Splits for pictures whose dataset does not say: by picture, never by caption, and the same whatever else is there."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.datasets.entries import SPLITS, Row
from pipeline.errors import DataError

VAL, TEST = 0.1, 0.1


def splits_of(rows: Iterable[Row], digests: Mapping[str, str], seed: int) -> dict[str, str]:
    """The split of each picture that has a digest.

    What the dataset says stands. Where it says nothing, 80/10/10 are drawn from (seed, picture); a val or test split
    that the dataset lacks altogether is drawn from its train pictures, a tenth each. Copies of one picture (the same
    bytes) that are drawn go together. Raises `DataError` when a picture is in two splits.
    """
    own = _own(rows, digests)
    lacking = {"val", "test"} - {split for split in own.values() if split}
    splits: dict[str, str] = {}
    of_content: dict[str, str] = {}
    of_training: dict[str, str] = {}
    # What the dataset says first, so that copies without a split can follow it.
    for image in sorted(own, key=lambda image: (own[image] is None, own[image] == "train", image.encode())):
        split, digest, drawn = own[image], digests[image], _drawn(f"{seed}/{image}")
        if split is None:
            split = of_content.get(digest, drawn)
        elif split == "train" and lacking:
            split = of_training.setdefault(digest, drawn if drawn in lacking else "train")
        splits[image] = split
        of_content.setdefault(digest, split)
    return splits


def drawn_splits(rows: Iterable[Row], digests: Mapping[str, str]) -> str | None:
    """In words, which splits are drawn; None when the dataset has them all."""
    own = Counter(_own(rows, digests).values())
    if set(own) == {None}:
        return "the dataset has no splits: 80/10/10 drawn from the seed"
    said = []
    lacking = [split for split in SPLITS[1:] if not own[split]]
    if lacking and own["train"]:
        said.append(f"the dataset has no {' and no '.join(lacking)} split: a tenth each drawn from its train pictures")
    if own[None]:
        said.append(f"{own[None]} pictures without a split: drawn from the seed")
    return "; ".join(said) or None


def _own(rows: Iterable[Row], digests: Mapping[str, str]) -> dict[str, str | None]:
    splits: dict[str, str | None] = {}
    for row in rows:
        if row.image not in digests:
            continue
        known = splits.get(row.image)
        if known is not None and row.split is not None and known != row.split:
            raise DataError(
                f"{row.file}, line {row.line}: {row.image} is in {row.split} and also in {known}; "
                "a picture belongs to one split"
            )
        splits[row.image] = known or row.split
    return splits


def _drawn(key: str) -> str:
    """Depends on `key` alone, so adding pictures moves no other one to another split."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return "val" if place < VAL else "test" if place < VAL + TEST else "train"
