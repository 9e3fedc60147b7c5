"""Image features for training and validation, batch by batch, in constant host memory.

Features stay on the device if they fit: the mean over regions always, if the decoder uses nothing else, and on a GPU
all features that leave room for training. Otherwise a second thread reads them from features.h5 ahead of use.

Shapes: N images of a split, B images of a batch, R regions, C channels.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import tee
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.features.feature_file import FeatureFile
from pipeline.training.batches import Batch

CHUNK = 128
"""Images per chunk where all images are read in order."""
PREFETCHED_BATCHES = 2
GPU_SHARE = 0.5
"""Largest share of the free GPU memory that features may take."""


class FeatureSource(Protocol):
    """Features of the images of a split."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Features (B, R, C) float32 on the device for each tensor of image indices (B,), which may repeat."""


class ResidentFeatures:
    """Features (N, R, C) in the memory of the device."""

    def __init__(self, features: Tensor) -> None:
        self._features = features

    def __len__(self) -> int:
        return len(self._features)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        for index in indices:
            yield self._features[index.to(self._features.device, non_blocking=True)].float()


class StreamedFeatures:
    """Features in a features file, read by a second thread. A damaged row raises `ArtefactError`."""

    def __init__(self, file: FeatureFile, images: Sequence[str], device: torch.device) -> None:
        row_of = file.index
        self._file, self._device = file, device
        self._rows = np.array([row_of[image] for image in images], np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        for features in self.read(indices):
            yield features.to(self._device, non_blocking=True).float()

    def read(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Features (B, R, C) float16 in host memory, which is pinned if the device is a GPU."""
        pending: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1, "features") as reader:
            for index in indices:
                pending.append(reader.submit(self._read_batch, index))
                if len(pending) > PREFETCHED_BATCHES:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _read_batch(self, index: Tensor) -> Tensor:
        features = torch.from_numpy(self._file.read(self._rows[index.numpy()]))
        return features.pin_memory() if self._device.type == "cuda" else features


def with_features(
    batches: Iterable[Batch], source: FeatureSource, device: torch.device
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch on `device` with its features (B, R, C)."""
    batches, ahead = tee(batches)
    for batch, features in zip(batches, source.batches(batch.images for batch in ahead), strict=True):
        yield batch.to(device), features


def chunks(count: int) -> Sequence[Tensor]:
    """The indices of `count` images in order, in chunks."""
    indices: Sequence[Tensor] = torch.arange(count).split(CHUNK)
    return indices


def open_features(
    file: FeatureFile, images: Sequence[str], pool: Callable[[Tensor], Tensor], device: torch.device
) -> FeatureSource:
    """The features of `images`, resident or streamed; `pool` is the decoder's."""
    streamed = StreamedFeatures(file, images, device)
    one = pool(torch.zeros(1, file.regions, file.channels, dtype=torch.float16))
    if one.shape[1] > 1 and not _fits(len(images) * one.nbytes, device):
        return streamed
    resident = torch.empty((len(images), *one.shape[1:]), dtype=one.dtype, device=device)
    for index, features in zip(chunks(len(images)), streamed.read(chunks(len(images))), strict=True):
        resident[index[0] : index[-1] + 1] = pool(features)
    return ResidentFeatures(resident)


def _fits(size: int, device: torch.device) -> bool:
    return device.type == "cuda" and size <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]
