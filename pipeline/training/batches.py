"""Captions in batches of nearly equal length, in an order that depends on (seed, epoch) alone.

B captions, T steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.distributed import ALONE, ProcessGroup

PAD = 0


def epoch_seed(seed: int, epoch: int) -> int:
    """What all randomness of an epoch follows from: a run that is resumed draws the same as one that was not."""
    return seed * 1_000_003 + epoch


@dataclass(frozen=True)
class Batch:
    """Captions shifted by one: the decoder reads `inputs` and is to say `targets`."""

    images: Tensor
    """(B,) rows of the features."""
    inputs: Tensor
    """(B, T), from BOS on."""
    targets: Tensor
    """(B, T), up to EOS."""
    places: Tensor
    """(n,) where the real tokens are among the B T, row by row; the others are padding."""

    @property
    def tokens(self) -> int:
        """The number of real tokens."""
        return len(self.places)


class Batches:
    """The training captions, resident on the device as one table of tokens."""

    def __init__(self, captions: Sequence[Sequence[int]], images: Sequence[int], *, batch_size: int, seed: int) -> None:
        """`captions` are token numbers from BOS to EOS; `images[i]` is the feature row of caption i.

        As `tokens` (N, longest) and `images` (N,) they are there for others.
        """
        self._lengths = torch.tensor([len(caption) for caption in captions])
        self.tokens = torch.full((len(captions), int(self._lengths.max())), PAD)
        for row, caption in enumerate(captions):
            self.tokens[row, : len(caption)] = torch.tensor(caption)
        self.images = torch.tensor(images)
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._batch_size)

    def to(self, device: torch.device) -> None:
        """Move the captions to where they are used."""
        self.tokens, self.images = self.tokens.to(device), self.images.to(device)

    def epoch(self, number: int, processes: ProcessGroup = ALONE) -> Iterator[Batch]:
        """Each caption once: shuffled, sorted by length, cut into batches, and the batches shuffled.

        Of each batch the share of one of `processes`, which may be empty.
        """
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, number))
        order = torch.randperm(len(self._lengths), generator=generator)
        order = order[self._lengths[order].argsort(stable=True)]
        chunks = order.split(self._batch_size)
        for chunk in torch.randperm(len(chunks), generator=generator).tolist():
            share = processes.share(chunks[chunk])
            lengths = self._lengths[share]  # all that decides on sizes stays here: asking a GPU would wait for it
            longest = int(lengths[-1]) if len(share) else 1
            real = torch.arange(longest - 1) < (lengths - 1).unsqueeze(1)
            chosen, places = self._sent(share), self._sent(real.flatten().nonzero().squeeze(1))
            tokens = self.tokens[chosen, :longest]
            yield Batch(self.images[chosen], tokens[:, :-1], tokens[:, 1:], places)

    def _sent(self, values: Tensor) -> Tensor:
        """On the device, without waiting for it."""
        device = self.tokens.device
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values

    def pictures(self, number: int, size: int) -> Iterator[Tensor]:
        """The feature rows that have captions, each once, in batches of `size`."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, number))
        rows = self.images.unique().cpu()
        yield from rows[torch.randperm(len(rows), generator=generator)].split(size)
