"""What every decoder can do, so that the search and the training know none of them by name.

Shapes: B pictures, K beams of each (1 in training), R regions, C channels, T steps, V tokens, E embedding, H hidden,
S what an output is made from. Tokens 0-3 mean padding, begin, end and unknown in every vocabulary.

A batch's size is asked for as `shape[0]`: `len` would become a constant in an exported network.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.accel.dropout import Dropout
from pipeline.accel.linear import Linear, computed_in

PAD, BOS, EOS, UNK = range(4)


class State(NamedTuple):
    """What a decoder remembers between steps."""

    picture: tuple[Tensor, ...]
    """What stays as it is, (B, ...): the same for all beams of a picture."""
    beam: tuple[Tensor, ...]
    """What changes with each word, (B K, ...): the K beams of a picture stand together."""


@dataclass(frozen=True)
class DecoderConfig:
    """What every decoder is built from."""

    vocabulary: int
    regions: int
    channels: int
    embed: int
    hidden: int
    attention: int
    feature_dropout: float
    embedding_dropout: float
    output_dropout: float
    tie_weights: bool
    """The output layer's weights are the embedding's (O. Press and L. Wolf, 2017)."""
    layer_norm: bool


class Decoder(nn.Module, ABC):
    """A language model conditioned on a picture's features (B, R, C).

    A child says how it starts, what it reads of words, how it goes on by one word, and what it says from there. What
    it reads and says concerns no other step: the teacher-forced pass does these for all steps together.
    """

    def __init__(self, sizes: DecoderConfig, said_from: int) -> None:
        super().__init__()
        self.standardise = FeatureNormalizer(sizes.channels)
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embed, padding_idx=PAD)
        self.feature_dropout = Dropout(sizes.feature_dropout)
        self.embedding_dropout = Dropout(sizes.embedding_dropout)
        self.output_dropout = Dropout(sizes.output_dropout)
        self.hidden = sizes.hidden
        self.tied = sizes.tie_weights
        if self.tied:
            nn.init.normal_(self.embedding.weight, std=sizes.embed**-0.5)
            nn.init.zeros_(self.embedding.weight[PAD])
            self.to_embedding = Linear(said_from, sizes.embed)
            self.bias = nn.Parameter(torch.zeros(sizes.vocabulary))
        else:
            self.output = Linear(said_from, sizes.vocabulary)

    def condense(self, features: Tensor) -> Tensor:
        """What this decoder needs of features (N, R, C): the same start follows from it, as often as it is needed."""
        return features

    @abstractmethod
    def start(self, features: Tensor) -> State:
        """The state before the first word."""

    @abstractmethod
    def picture(self, state: State) -> Tensor:
        """What the state before the first word knows of the picture, (B, H)."""

    @abstractmethod
    def read(self, words: Tensor) -> Tensor:
        """What the recurrence takes of embedded words (..., E)."""

    @abstractmethod
    def advance(self, state: State, read: Tensor) -> tuple[Tensor, State]:
        """What is to be said from here (B K, S), and the state, after what was `read` of one word per beam."""

    def unroll(self, state: State, read: Tensor) -> Tensor:
        """What `advance` gives to be said, (B, T, S), for all steps of `read` (B, T, ...)."""
        outputs, advance = [], self.advancing(state)
        for step in read.unbind(1):
            seen, state = advance(state, step)
            outputs.append(seen)
        return torch.stack(outputs, 1)

    def advancing(self, state: State) -> Callable[[State, Tensor], tuple[Tensor, State]]:
        """`advance`, for all steps from this first state on."""
        return self.advance

    def combine(self, seen: Tensor, words: Tensor) -> Tensor:
        """From what `advance` gave (..., S) and the words read last (..., E) to the input of the output layer."""
        return seen

    def words(self, tokens: Tensor) -> Tensor:
        """Embedded words (..., E)."""
        words: Tensor = self.embedding_dropout(self.embedding(tokens))
        return words

    def logits(self, seen: Tensor, words: Tensor) -> Tensor:
        """(..., V) of the next word."""
        outputs = self.output_dropout(self.combine(seen, words))
        if self.tied:
            return functional.linear(self.to_embedding(outputs), self.embedding.weight, self.bias)
        logits: Tensor = self.output(outputs)
        return logits

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Log-probabilities (B K, V) of the word after `tokens` (B K,), and the next state."""
        words = self.words(tokens)
        seen, state = self.advance(state, self.read(words))
        return self.logits(seen, words).float().log_softmax(-1), state

    def forward(self, features: Tensor, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """Teacher-forced logits: (B, T, V) of the word after each of `tokens` (B, T), the first being BOS.

        With `places` (n,) among the B T, only those, (n, V): projecting to the vocabulary is most of the work, and
        padding needs none of it.
        """
        words = self.words(tokens)
        return self.follow(self.start(features), words, places)

    def follow(self, state: State, words: Tensor, places: Tensor | None = None) -> Tensor:
        """The same from the state before the first word and embedded words (B, T, E)."""
        seen = self.unroll(state, self.read(words))  # (B, T, S)
        if places is None:
            return self.logits(seen, words)
        return self.logits(seen.flatten(0, 1)[places], words.flatten(0, 1)[places])

    def attention_weights(self, state: State) -> Tensor | None:
        """Where the decoder looked for its latest word, (B K, R) summing to 1; None for those that do not look."""
        return None


class FeatureNormalizer(nn.Module):
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
        return ((features.float() - self.mean) * self.scale).to(computed_in(self.scale))
