"""Show and Tell: the picture is the first thing that the LSTM reads, words are the rest.

O. Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015, equations 10-12.
Shapes: see protocol.py.
"""

import torch
from torch import Tensor

from pipeline.accel.linear import Linear
from pipeline.decoders.decoder import Decoder, DecoderConfig, State
from pipeline.decoders.lstm import LSTMCell


class Inject(Decoder):
    """x_{-1} = W_image mean(features); x_t = W_embed word_t; p_{t+1} = softmax(W_out LSTM(x_t))."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__(sizes, sizes.hidden)
        self.image = Linear(sizes.channels, sizes.embed)
        self.cell = LSTMCell(words=sizes.embed, other=0, hidden=sizes.hidden, layer_norm=sizes.layer_norm)

    def condense(self, features: Tensor) -> Tensor:
        return torch.cat([part.float().mean(1, keepdim=True) for part in features.split(256)])  # (N, 1, C)

    def start(self, features: Tensor) -> State:
        pooled = self.feature_dropout(self.standardise(features.float().mean(1)))  # (B, C)
        nothing = pooled.new_zeros(pooled.shape[0], self.hidden)
        return State((), self.cell(self.cell.read(self.image(pooled)), [], nothing, nothing))

    def picture(self, state: State) -> Tensor:
        return state.beam[0]

    def read(self, words: Tensor) -> Tensor:
        return self.cell.read(words)

    def advance(self, state: State, read: Tensor) -> tuple[Tensor, State]:
        h, c = self.cell(read, [], *state.beam)
        return h, State((), (h, c))

    def unroll(self, state: State, read: Tensor) -> Tensor:
        return self.cell.unroll(read, *state.beam)
