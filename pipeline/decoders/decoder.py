"""The interface of all decoders: a language model over tokens, conditioned on the features of an image.

Shapes: B images, K beams per image (1 in training), R regions, C channels, T steps, V vocabulary, E embedding,
H hidden state, O input of the output layer.

Code here asks for a batch's size as `shape[0]`: `len` would become a constant in an exported network.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.decoders.registry import DecoderOptions
from pipeline.tokens import PAD


@dataclass(frozen=True)
class Sizes:
    """What the data decide about a decoder: the size of the vocabulary and of an image's features."""

    vocabulary: int
    regions: int
    channels: int
    padded: bool = False
    """Whether images have different numbers of regions: regions of zeros are then padding."""


class State(NamedTuple):
    """A decoder's state between two steps."""

    image: tuple[Tensor, ...]
    """Constant parts, (B, ...), shared by all beams of an image."""
    beam: tuple[Tensor, ...]
    """Parts that change with each token, (B K, ...); the beams of one image are adjacent."""


class Decoder(nn.Module, ABC):
    """Base class. A subclass defines the initial state, one step of its recurrence, and all steps at once.

    The output layer and all dropout but that inside a subclass' own layers are here.
    """

    def __init__(self, options: DecoderOptions, sizes: Sizes, *, output: int) -> None:
        super().__init__()
        self.hidden = options.hidden
        self.padded = sizes.padded
        self.normalize = FeatureNormalizer(sizes.channels, padded=sizes.padded)
        self.embedding = nn.Embedding(sizes.vocabulary, options.embed, padding_idx=PAD)
        self.feature_dropout = nn.Dropout(options.feature_dropout)
        self.embedding_dropout = nn.Dropout(options.embedding_dropout)
        self.output_dropout = nn.Dropout(options.output_dropout)
        self.output = nn.Linear(output, sizes.vocabulary)

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state before the first token, with one beam per image, from features (B, R, C)."""

    @abstractmethod
    def advance(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """One step: the output layer's input (B K, O) and the next state, after embedded tokens (B K, E)."""

    @abstractmethod
    def unroll(self, state: State, words: Tensor) -> Tensor:
        """All steps: the output layer's input (B, T, O) for embedded tokens (B, T, E); equals repeated `advance`."""

    @abstractmethod
    def image_vector(self, state: State) -> Tensor:
        """The decoder's representation of each image (B, H), from the state before the first token."""

    def attention_weights(self, state: State) -> Tensor | None:
        """Attention weights (B K, R) of the latest step, each row summing to 1; None without attention."""
        return None

    def pool(self, features: Tensor) -> Tensor:
        """The part of features (N, R, C) that `start` needs: (N, R, C), or (N, 1, C) if it uses only their mean."""
        return features

    def real_regions(self, features: Tensor) -> Tensor | None:
        """Whether each region of features (B, R, C) is real, not padding: (B, R); None if no region is padding."""
        return features.any(-1) if self.padded else None

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings (..., E) of tokens (...), with dropout."""
        embedded: Tensor = self.embedding_dropout(self.embedding(tokens))
        return embedded

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Log-probabilities (B K, V) of the token after `tokens` (B K,), and the next state."""
        output, state = self.advance(state, self.embed(tokens))
        return self._logits(output).float().log_softmax(-1), state

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: logits (B, T, V) of the token after each of `tokens` (B, T), the first of which is BOS."""
        return self.follow(self.start(features), self.embed(tokens))

    def follow(self, state: State, words: Tensor, positions: Tensor | None = None) -> Tensor:
        """The same as `forward`, from the state before the first token and embedded tokens (B, T, E).

        With `positions` (n,), indices into the B T flattened tokens, only those: logits (n, V). The projection to the
        vocabulary is most of the work, and padding needs none.
        """
        outputs = self.unroll(state, words)  # (B, T, O)
        if positions is not None:
            outputs = outputs.flatten(0, 1)[positions]  # (n, O)
        return self._logits(outputs)

    def _logits(self, outputs: Tensor) -> Tensor:
        logits: Tensor = self.output(self.output_dropout(outputs))
        return logits


def mean_over_regions(values: Tensor, real: Tensor | None = None) -> Tensor:
    """The mean (B, H) of region vectors `values` (B, R, H) over the regions that are `real` (B, R); None: over all."""
    if real is None:
        return values.mean(1)
    return (values * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True).clamp_min(1)


class FeatureNormalizer(nn.Module):
    """Normalizes each channel to mean 0 and standard deviation 1 over the training images.

    Mean and scale are buffers, so they are part of the model file. If features are `padded`, regions of zeros do not
    count.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, *, padded: bool = False) -> None:
        super().__init__()
        self._padded = padded
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def fit(self, chunks: Iterable[Tensor]) -> None:
        """Compute mean and scale from the training features, read in chunks of shape (n, R, C).

        Sums are in float64, because float32 loses digits over many rows. A channel that is constant gets scale 0.
        """
        total = torch.zeros(self.mean.shape, dtype=torch.float64)
        squares = torch.zeros_like(total)
        count = 0
        for chunk in chunks:
            values = chunk.double().flatten(0, 1)  # (n R, C)
            if self._padded:
                values = values[values.any(1)]
            total += values.sum(0)
            squares += values.square_().sum(0)
            count += values.shape[0]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        floor = deviation.mean() * 1e-3 + 1e-12
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > floor, 1 / deviation.clamp_min(floor), torch.zeros_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) * self.scale
