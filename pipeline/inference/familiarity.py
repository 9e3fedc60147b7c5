"""How familiar an image is: the share of the val images that are at least as far from the training images.

The distance is the Mahalanobis distance to one Gaussian of the training images (K. Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018). Two differences from the
paper: the vectors have unit length (M. Mueller and M. Hein, "Mahalanobis++", ICML 2025), and the covariance is that of
probabilistic PCA (M. Tipping and C. Bishop, 1999), which is small: the variances along the first K principal
directions, and one variance for all others. docs/results.md states what it was measured on; without
the unit length the ROC area there is 0.79 instead of 0.97.

The vector of an image is the mean of its regions, scaled to unit length. Regions of zeros, which are padding in
imported features, change the length of a mean only, and so do not count.

This module works on numpy arrays, so that the torch and the ONNX runtime share it; only `fit` uses torch.

B images, R regions, C channels, K directions, V stored distances.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtefactError

Array = NDArray[Any]

DIRECTIONS = 32
"""Principal directions that are stored, 0.3 MB for 2,048 channels. 64 and 128 separate photos equally well."""
MIN_IMAGES = 50
"""Fewer train or val images describe no distribution."""
MAX_DISTANCES = 1000
"""Of more val images, as many quantiles of the distances are stored."""
UNFAMILIAR = 0.01
"""Images of a lower familiarity are unfamiliar: about one of a hundred images like those of the val split."""
_NO_VARIANCE = 1e-9
"""Total variance of vectors of unit length that differ by rounding only; at most 1 is possible."""
_SMALLEST = 1e-6
"""Least variance, as a share of the mean variance of the channels."""


@dataclass(frozen=True)
class Familiarity:
    """A Gaussian of the training images, and the distances of the val images from it."""

    mean: Array
    """(C,) float32"""
    directions: Array
    """(K, C) float32: the principal directions, of unit length, by decreasing variance."""
    variances: Array
    """(K + 1,) float32: the variance along each direction, and along any other."""
    distances: Array
    """(V,) float32: squared Mahalanobis distances of val images, or quantiles of these, in increasing order."""

    @classmethod
    def fit(cls, train: Iterable[Array], val: Iterable[Array]) -> Self | None:
        """From the features (n, R, C) of the train and the val split, in batches.

        None if a split has fewer than 50 images, or if all training images have the same vector.
        """
        from pipeline.device import single_threaded

        with single_threaded():  # the same bytes whatever the number of cores
            mean, covariance, count = _moments(train)
            if count < MIN_IMAGES or np.trace(covariance) < _NO_VARIANCE:
                return None
            variances, directions = _principal_directions(covariance)
        gaussian = cls(mean.astype(np.float32), directions, variances, distances=np.zeros(0, np.float32))
        distances = np.sort([distance for features in val for distance in gaussian.squared_distances(features)])
        if len(distances) < MIN_IMAGES:
            return None
        kept = np.linspace(0, len(distances) - 1, min(len(distances), MAX_DISTANCES)).round().astype(np.int64)
        return replace(gaussian, distances=distances[kept])

    def __call__(self, features: Array) -> list[float]:
        """The familiarity (0 to 1) of each image with features (B, R, C)."""
        total = len(self.distances)
        nearer = np.searchsorted(self.distances, self.squared_distances(features), side="left")
        return [float(share) for share in (total - nearer) / total]

    def squared_distances(self, features: Array) -> Array:
        """Squared Mahalanobis distances (B,) float32 of images with features (B, R, C).

        They are rounded from float64, so that they do not depend on the batch.
        """
        offsets = unit_vectors(features) - self.mean  # (B, C)
        along = np.square(offsets @ self.directions.T.astype(np.float64))  # (B, K)
        across = np.maximum(np.square(offsets).sum(1) - along.sum(1), 0)
        *variances, rest = self.variances.astype(np.float64)
        distances: Array = ((along / np.array(variances)).sum(1) + across / rest).astype(np.float32)
        return distances

    def arrays(self) -> dict[str, Array]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], place: str, *, channels: int) -> Self:
        """The inverse of `arrays`. Raises `ArtefactError` naming `place` when an array is missing, does not fit the
        others or holds impossible values."""
        dimensions = {"mean": 1, "directions": 2, "variances": 1, "distances": 1}
        expected = {name: (np.dtype(np.float32), count) for name, count in dimensions.items()}
        found = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
        if found != expected or not (familiarity := cls(**arrays))._is_consistent(channels):
            raise ArtefactError(f"{place}: the arrays of the familiarity are not those of this version; train again")
        return familiarity

    def _is_consistent(self, channels: int) -> bool:
        directions = len(self.variances) - 1
        return (
            self.mean.shape == (channels,)
            and self.directions.shape == (directions, channels)
            and all(np.isfinite(array).all() for array in self.arrays().values())
            and bool((self.variances > 0).all())
            and len(self.distances) > 0
            and bool((self.distances >= 0).all() and (np.diff(self.distances) >= 0).all())
        )


def describe_unfamiliar(familiarity: float | None) -> str | None:
    """The warning about the captions of an unfamiliar image; None for a familiar one and where it is not known."""
    if familiarity is None or familiarity >= UNFAMILIAR:
        return None
    return f"unlike the training images (familiarity {familiarity:.1%}): the caption is probably wrong"


def unit_vectors(features: Array) -> Array:
    """The direction (B, C) float64 of the mean over regions of features (B, R, C); 0 for features of zeros."""
    total = features.sum(1, dtype=np.float64)
    vectors: Array = total / np.maximum(np.sqrt(np.square(total).sum(1, keepdims=True)), 1e-30)
    return vectors


def _moments(batches: Iterable[Array]) -> tuple[Array, Array, int]:
    """The mean (C,), the covariance (C, C) and the number of the images' vectors, in float64."""
    import torch

    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        vectors = torch.from_numpy(unit_vectors(batch))
        count += len(vectors)
        total = total + vectors.sum(0)
        products = products + vectors.T @ vectors
    mean = total / max(count, 1)
    covariance = products / max(count, 1) - torch.outer(mean, mean) if count else products
    return mean.numpy(), covariance.numpy(), count


def _principal_directions(covariance: Array) -> tuple[Array, Array]:
    """The variances (K + 1,) and directions (K, C) float32 of probabilistic PCA.

    A direction's sign, which is arbitrary, makes its largest entry positive.
    """
    import torch

    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance))
    channels = len(values)
    count = min(DIRECTIONS, channels - 1)
    largest = values.flip(0)[:count]
    directions = vectors.flip(1)[:, :count].T.numpy()
    peaks = np.abs(directions).argmax(1)
    directions = directions * np.sign(directions[np.arange(count), peaks])[:, None]
    total = np.trace(covariance)
    rest = (total - float(largest.sum())) / (channels - count)
    variances = np.maximum([*largest.tolist(), rest], _SMALLEST * total / channels)
    return variances.astype(np.float32), np.ascontiguousarray(directions, np.float32)
