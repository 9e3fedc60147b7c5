"""Assigns images to splits where the dataset does not: by image, not by caption, from the seed and the image's name."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pipeline.datasets.entries import SPLITS, CaptionEntry, SkippedEntry, skip_entry
from pipeline.errors import DataError
from pipeline.wording import counted

VAL, TEST = 0.1, 0.1
EXACT_BELOW = 300
"""Of fewer images, exact tenths are drawn: chance would give 40 images anything from none to nine for val."""


def assign_splits(entries: Iterable[CaptionEntry], sha256: Mapping[str, str], seed: int) -> dict[str, str]:
    """The split of each image that has a sha256.

    Splits of the dataset stand. Images without one are drawn 80/10/10 from (seed, name): from `EXACT_BELOW` images on
    each by itself, so that new images move no others; of fewer, exact tenths. A val or test split that the
    dataset lacks is drawn from its train images, a tenth each. Each drawn split gets at least one image where train
    keeps one. Images with the same bytes are drawn together. Raises `DataError` when an image is in two splits.
    """
    own = _own_splits(entries, sha256)
    lacking = {"val", "test"} - {split for split in own.values() if split}
    splits: dict[str, str] = {}
    by_content: dict[str, str] = {}
    train_by_content: dict[str, str] = {}
    limits = _limits(seed, [image for image, split in own.items() if split is None or (split == "train" and lacking)])
    # Images with a split of their own come first, so that copies without one can follow them.
    for image in sorted(own, key=lambda image: (own[image] is None, own[image] == "train", image.encode())):
        split, digest = own[image], sha256[image]
        drawn = _draw(seed, image, limits)
        if split is None:
            split = by_content.get(digest, drawn)
        elif split == "train" and lacking:
            split = train_by_content.setdefault(digest, drawn if drawn in lacking else "train")
        splits[image] = split
        by_content.setdefault(digest, split)
    _fill_empty_splits(splits, own, sha256, seed)
    return splits


def drop_leaks(
    entries: Sequence[CaptionEntry], sha256: Mapping[str, str]
) -> tuple[list[CaptionEntry], list[SkippedEntry]]:
    """Leave each image in one split of its own, test before val before train; the others are returned as skipped.

    Images are the same if they have the same bytes, under one name or under several.
    """
    best: dict[str, str] = {}
    for entry in entries:
        digest = sha256[entry.image]
        if entry.split is not None:
            best[digest] = max(best.get(digest, entry.split), entry.split, key=SPLITS.index)
    kept: list[CaptionEntry] = []
    dropped: dict[tuple[str, str], SkippedEntry] = {}
    for entry in entries:
        split = best.get(sha256[entry.image])
        if entry.split in {None, split}:
            kept.append(entry)
        else:
            reason = f"the same image is in {split}, so that it is left out of {entry.split} (params.data.leaks: drop)"
            dropped.setdefault((entry.image, entry.split), skip_entry(entry.image, reason, entry.file, entry.line))
    return kept, list(dropped.values())


def describe_drawn_splits(entries: Iterable[CaptionEntry], sha256: Mapping[str, str]) -> str | None:
    """Which splits are drawn, in words; None when the dataset has them all."""
    own = Counter(_own_splits(entries, sha256).values())
    if set(own) == {None}:
        return "the dataset has no splits: 80/10/10 drawn from the seed"
    parts = []
    lacking = [split for split in SPLITS[1:] if not own[split]]
    if lacking and own["train"]:
        each = "each" if len(lacking) > 1 else "it"
        parts.append(
            f"the dataset has no {' and no '.join(lacking)} split: a tenth of its train images is drawn for {each}"
        )
    if own[None]:
        parts.append(f"{counted(own[None], 'image')} without a split: drawn from the seed")
    return "; ".join(parts) or None


def _own_splits(entries: Iterable[CaptionEntry], sha256: Mapping[str, str]) -> dict[str, str | None]:
    splits: dict[str, str | None] = {}
    for entry in entries:
        if entry.image not in sha256:
            continue
        known = splits.get(entry.image)
        if known is not None and entry.split is not None and known != entry.split:
            raise DataError(
                f"{entry.place}: {entry.image} is in {entry.split} and also in {known}; "
                "assign each image to one split, or set params.data.leaks to drop"
            )
        splits[entry.image] = known or entry.split
    return splits


def _fill_empty_splits(
    splits: dict[str, str], own: Mapping[str, str | None], sha256: Mapping[str, str], seed: int
) -> None:
    """Move one drawn image with its copies to each split that has none, from the split that has the most images.

    Train and val keep at least one, which training needs. Of the images of a split, the one drawn first is moved.
    """
    drawn = {image for image, split in own.items() if split in {None, "train"}}
    for empty in SPLITS:
        if empty in splits.values():
            continue
        copies = defaultdict(list)
        for image, split in splits.items():
            copies[split, sha256[image]].append(image)
        sizes = Counter(split for split, _ in copies)
        movable = [
            (-sizes[split], min(_place(seed, image) for image in images), images)
            for (split, _), images in copies.items()
            if (sizes[split] > 1 or split == "test") and drawn.issuperset(images)
        ]
        if movable:
            _, _, images = min(movable)
            splits |= dict.fromkeys(images, empty)


def _limits(seed: int, images: Sequence[str]) -> tuple[float, float]:
    """The places below which a drawn image is in val, and in val or test."""
    if len(images) >= EXACT_BELOW:
        return VAL, VAL + TEST
    places = [*sorted(_place(seed, image) for image in images), 1.0]
    val = round(VAL * len(images))
    return places[val], places[val + round(TEST * len(images))]


def _draw(seed: int, image: str, limits: tuple[float, float]) -> str:
    place, (val, test) = _place(seed, image), limits
    return "val" if place < val else "test" if place < test else "train"


def _place(seed: int, image: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image}".encode()).digest()[:8]) / 2**64
