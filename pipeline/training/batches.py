"""Batches of captions of similar length, in an order that depends on (seed, epoch) alone.

Shapes: N captions, B captions of a batch, T steps, n real (non-padding) tokens of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.tokens import PAD
from pipeline.training.distributed import SINGLE_PROCESS, ProcessGroup


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that a resumed run draws the same numbers."""
    return seed * 1_000_003 + epoch


@dataclass(frozen=True)
class Batch:
    """Captions for teacher forcing: `targets` are `inputs` shifted by one."""

    images: Tensor
    """(B,) index of each caption's image."""
    inputs: Tensor
    """(B, T) tokens from BOS on, padded."""
    targets: Tensor
    """(B, T) tokens up to EOS, padded."""
    positions: Tensor | None
    """(n,) indices of the real tokens among the flattened B T; None: all are projected, and padding is masked."""
    tokens: int
    """Number of real tokens of the whole batch, over all processes."""
    weights: Tensor | None = None
    """(B, T) factor of each token's negative log-likelihood, 0 for padding; None: 1."""

    def to(self, device: torch.device) -> "Batch":
        """Copy to `device`; a copy to a GPU does not wait for it."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or tensor.device.type == device.type:
                return tensor
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        names = ("images", "inputs", "targets", "positions", "weights")
        moved = {name: move(getattr(self, name)) for name in names}
        return replace(self, **moved)  # type: ignore[arg-type]


class Batches:
    """The captions of a split as one padded table of tokens in host memory."""

    def __init__(self, captions: Sequence[Sequence[int]], images: Sequence[int], *, batch_size: int, seed: int) -> None:
        """`captions` are tokens from BOS to EOS; `images[i]` is the index of caption i's image."""
        self.lengths = torch.tensor([len(caption) for caption in captions])  # (N,)
        self.captions = torch.full((len(captions), int(self.lengths.max())), PAD)  # (N, longest)
        for row, caption in enumerate(captions):
            self.captions[row, : len(caption)] = torch.tensor(caption)
        self.images = torch.tensor(images)  # (N,)
        self.batch_size = min(batch_size, len(captions))
        self._seed = seed

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int, processes: ProcessGroup = SINGLE_PROCESS) -> Iterator[Batch]:
        """Yield this process's share of each batch.

        Captions are shuffled, sorted by length and cut into batches, and the batches are shuffled. A process without a
        share of a small batch gets one caption without real tokens, because every process must compute a gradient.
        """
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, number))
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[self.lengths[order].argsort(stable=True)]
        chunks = order.split(self.batch_size)
        for index in torch.randperm(len(chunks), generator=generator).tolist():
            chunk = chunks[index]
            tokens = int((self.lengths[chunk] - 1).sum())
            share = processes.share(chunk)
            yield self._batch(share, tokens) if len(share) else self._batch(chunk[:1], tokens, masked=True)

    def _batch(self, rows: Tensor, tokens: int, *, masked: bool = False) -> Batch:
        captions = self.captions[rows, : self.lengths[rows].max()]  # (B, T + 1)
        targets = torch.full_like(captions[:, 1:], PAD) if masked else captions[:, 1:]
        positions = (targets != PAD).flatten().nonzero().squeeze(1)
        return Batch(self.images[rows], captions[:, :-1], targets, positions, tokens)

    def image_epoch(self, number: int, size: int) -> Iterator[Tensor]:
        """Yield the indices of the images that have captions, each once, in shuffled batches of `size`."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, number))
        images = self.images.unique()
        yield from images[torch.randperm(len(images), generator=generator)].split(size)
