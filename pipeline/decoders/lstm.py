"""The LSTM cell of all decoders, cut so that what words alone decide is computed for all steps at once.

S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997, with forget gates; with layer normalisation as
J. L. Ba et al., "Layer Normalization", 2016, equations 20-22.
Shapes: see protocol.py; X the width of what is read at each step beside the words.
"""

import torch
from torch import Tensor, nn

from pipeline.accel.linear import Linear
from pipeline.accel.lstm import unroll


class LSTMCell(nn.Module):
    """i, f, g, o = W_word word + W [other, h] + b; c = f c + i g; h = o tanh(c)."""

    def __init__(self, *, words: int, other: int, hidden: int, layer_norm: bool) -> None:
        super().__init__()
        self.word = Linear(words, 4 * hidden) if words else None
        self.recurrent = Linear(other + hidden, 4 * hidden, bias=words == 0)
        self.of_words = nn.LayerNorm(4 * hidden) if layer_norm and words else nn.Identity()
        self.of_recurrence = nn.LayerNorm(4 * hidden) if layer_norm else nn.Identity()
        self.of_memory = nn.LayerNorm(hidden) if layer_norm else nn.Identity()
        bound = hidden**-0.5
        for parameter in (*(self.word.parameters() if self.word else ()), *self.recurrent.parameters()):
            nn.init.uniform_(parameter, -bound, bound)

    def read(self, words: Tensor) -> Tensor:
        """The words' share of the gates (..., 4 H), for any number of steps."""
        assert self.word is not None
        gates: Tensor = self.of_words(self.word(words))
        return gates

    def unroll(self, read: Tensor, h: Tensor, c: Tensor) -> Tensor:
        """h (B, T, H) after each step of `read` (B, T, 4 H); for a cell that reads nothing beside the words."""
        if isinstance(self.of_recurrence, nn.Identity):
            return unroll(read, self.recurrent.weight, h, c)
        states = []
        for step in read.unbind(1):
            h, c = self(step, [], h, c)
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, read: Tensor | None, other: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c (B, H), after `read` (B, 4 H) and `other`, tensors of X columns together."""
        gates = self.of_recurrence(self.recurrent(torch.cat([*other, h], -1)))
        if read is not None:
            gates = gates + read
        write, forget, candidate, output = gates.chunk(4, -1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(write) * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(self.of_memory(c)), c
