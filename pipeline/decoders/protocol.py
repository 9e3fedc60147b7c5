"""What every decoder can do, so that the search and the training know none of them by name.

Shapes: B pictures (or beams), R regions, C channels, T steps, V tokens, E embedding, H hidden.
Tokens 0-3 mean padding, begin, end and unknown in every vocabulary.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

PAD, BOS, EOS, UNK = range(4)

State = tuple[Tensor, ...]
"""What a decoder remembers between steps. Every tensor's first dimension is the picture or beam."""


class Decoder(nn.Module, ABC):
    """A language model conditioned on a picture's features (B, R, C)."""

    standardise: "Standardise"

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state before the first word."""

    @abstractmethod
    def hidden(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """What the next word is predicted from (B, H), after reading `tokens` (B,), and the state after it."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) from (..., H)."""

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Log-probabilities (B, V) of the word after `tokens` (B,), and the next state."""
        hidden, state = self.hidden(state, tokens)
        return self.logits(hidden).log_softmax(-1), state

    def forward(self, features: Tensor, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """Teacher-forced logits: (B, T, V) of the word after each of `tokens` (B, T), the first being BOS.

        With a mask `real` (B, T), only (real.sum(), V): projecting to the vocabulary is most of the work, and
        padding needs none of it.
        """
        state = self.start(features)
        outputs = []
        for column in tokens.unbind(1):
            hidden, state = self.hidden(state, column)
            outputs.append(hidden)
        stacked = torch.stack(outputs, 1)  # (B, T, H)
        return self.logits(stacked if real is None else stacked[real])

    def attention_map(self, state: State) -> Tensor | None:
        """Where the decoder looked for its latest word, (B, R) summing to 1; None for those that do not look."""
        return None


class Standardise(nn.Module):
    """Channels brought to mean 0 and deviation 1 over the training pictures; the figures are part of the model."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """From features (N, R, C) of the training pictures; in float64, since sums over many rows lose digits."""
        total = torch.zeros(features.shape[-1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        count = 0
        for chunk in features.split(256):
            values = chunk.double().flatten(0, 1)
            total += values.sum(0)
            squares += values.square().sum(0)
            count += len(values)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        # A channel that never fires says nothing: leave it at zero instead of dividing by zero.
        floor = deviation.mean() * 1e-3 + 1e-12
        self.scale.copy_(torch.where(deviation > floor, 1 / deviation.clamp_min(floor), torch.zeros_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) * self.scale
