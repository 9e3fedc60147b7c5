"""Captions in batches of nearly equal length, in an order that depends on (seed, epoch) alone.

B captions, T steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD = 0


@dataclass(frozen=True)
class Batch:
    """Captions shifted by one: the decoder reads `inputs` and is to say `targets`."""

    images: Tensor
    """(B,) rows of the features."""
    inputs: Tensor
    """(B, T), from BOS on."""
    targets: Tensor
    """(B, T), up to EOS."""
    real: Tensor
    """(B, T) bool: False where padding is."""


class Batches:
    """The training captions, resident in memory."""

    def __init__(self, captions: Sequence[Sequence[int]], images: Sequence[int], *, batch_size: int, seed: int) -> None:
        """`captions` are token numbers from BOS to EOS; `images[i]` is the feature row of caption i."""
        self._captions = [torch.tensor(caption) for caption in captions]
        self._lengths = torch.tensor([len(caption) for caption in captions])
        self._images = torch.tensor(images)
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._captions) // self._batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Each caption once: shuffled, sorted by length, cut into batches, and the batches shuffled."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        order = torch.randperm(len(self._captions), generator=generator)
        order = order[self._lengths[order].argsort(stable=True)]
        chunks = order.split(self._batch_size)
        for chunk in torch.randperm(len(chunks), generator=generator).tolist():
            chosen = chunks[chunk]
            padded = torch.nn.utils.rnn.pad_sequence(
                [self._captions[caption] for caption in chosen.tolist()], batch_first=True, padding_value=PAD
            )
            targets = padded[:, 1:]
            yield Batch(self._images[chosen], padded[:, :-1], targets, targets != PAD)
