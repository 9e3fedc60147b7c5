"""How well the familiarity that a model gives images separates known from other images.

    python benchmarks/familiarity.py models/captioner.safetensors data/interim/images.csv holiday/ [--neighbors 5]

The known images are a folder, or the test images of an images.csv. Prints the share of each set that is marked as
unfamiliar, and the ROC area: the probability that an other image is farther from the training images than a known one.
`--neighbors K` adds the ROC area of an alternative that a small model file cannot offer, the distance to the K-th
nearest training image; it encodes the train split of images.csv.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.inference.base_captioner import open_image
from pipeline.inference.captioner import Captioner
from pipeline.inference.familiarity import UNFAMILIAR, unit_vectors

Array = NDArray[Any]


def images_of(place: Path, split: str) -> list[str]:
    """The paths of the images of a folder, or of a split of an images.csv."""
    if place.is_dir():
        return sorted(str(path) for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    with place.open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file) if row["split"] == split]


def encode(captioner: Captioner, paths: Sequence[str]) -> Iterator[Array]:
    """The features (n, R, C) of images, in batches."""
    for start in range(0, len(paths), captioner.batch_size):
        batch = paths[start : start + captioner.batch_size]
        yield captioner.encode(np.stack([captioner.preprocess(open_image(path)) for path in batch]))


def neighbor_distances(train: Array, vectors: Array, neighbors: int) -> Array:
    """Squared distances (n,) of unit vectors (n, C) to the K-th nearest of `train` (N, C)."""
    found: Array = np.partition(2 - 2 * vectors @ train.T, neighbors - 1, axis=1)[:, neighbors - 1]
    return found


def roc_area(known: Array, other: Array) -> float:
    """The probability that a value of `other` is larger than one of `known`; a tie counts half."""
    ordered = np.sort(known)
    places = np.searchsorted(ordered, other, "left") + np.searchsorted(ordered, other, "right")
    return float(places.mean()) / 2 / len(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("known", type=Path, help="folder, or images.csv, of which the test split is taken")
    parser.add_argument("other", type=Path, help="folder")
    parser.add_argument("--neighbors", type=int, default=0)
    given = parser.parse_args()
    captioner = Captioner.load(given.model)
    familiarity = captioner.familiarity
    if familiarity is None:
        parser.error(f"{given.model}: stores no familiarity; train again with at least 50 train and 50 val images")
    distances, vectors = [], []
    for name, place in (("known", given.known), ("other", given.other)):
        features = list(encode(captioner, images_of(place, "test")))
        marked = np.mean([share < UNFAMILIAR for batch in features for share in familiarity(batch)])
        print(f"{name}: {sum(map(len, features))} images, {marked:.1%} are marked as unfamiliar")
        distances.append(np.concatenate([familiarity.squared_distances(batch) for batch in features]))
        vectors.append(np.concatenate([unit_vectors(batch) for batch in features]))
    print(f"ROC area, Mahalanobis distance: {roc_area(*distances):.3f}")
    if given.neighbors:
        train = np.concatenate([unit_vectors(batch) for batch in encode(captioner, images_of(given.known, "train"))])
        known, other = (neighbor_distances(train, one, given.neighbors) for one in vectors)
        print(f"ROC area, distance to the {given.neighbors}th nearest training image: {roc_area(known, other):.3f}")


if __name__ == "__main__":
    main()
