"""Splits for pictures whose dataset does not say: by picture, never by caption, and the same whatever else is there."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from pipeline.captions.rows import Row

VAL, TEST = 0.1, 0.1


def assign_splits(rows: Iterable[Row], seed: int) -> list[Row]:
    """Rows with a split each. A picture's own split is kept; the others are drawn from (seed, image): 80/10/10.

    `train-or-val`, for a training file without validation pictures, draws 90/10 between those two.
    """
    assigned = []
    for row in rows:
        split = row.split
        if split is None or split == "train-or-val":
            place = _fraction(f"{seed}/{row.image}")
            split = "val" if place < VAL else "test" if split is None and place < VAL + TEST else "train"
        assigned.append(replace(row, split=split))
    return assigned


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone, so adding pictures moves no other one to another split."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
