"""Merge: the LSTM reads words alone; picture and text meet before the softmax.

M. Tanti et al., "Where to put the image in an image caption generator", Natural Language Engineering 2018, the merge
architecture; with the sum and the dense layer of the Keras tutorials that made it popular.
Shapes: see protocol.py.
"""

import torch
from torch import Tensor

from pipeline.accel.linear import Linear
from pipeline.decoders.decoder import Decoder, DecoderConfig, State
from pipeline.decoders.lstm import LSTMCell


class Merge(Decoder):
    """p_{t+1} = softmax(W_out relu(W (relu(W_image mean(features)) + LSTM(word_1..t))))."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__(sizes, sizes.hidden)
        self.image = Linear(sizes.channels, sizes.hidden)
        self.cell = LSTMCell(words=sizes.embed, other=0, hidden=sizes.hidden, layer_norm=sizes.layer_norm)
        self.dense = Linear(sizes.hidden, sizes.hidden)

    def condense(self, features: Tensor) -> Tensor:
        return torch.cat([part.float().mean(1, keepdim=True) for part in features.split(256)])  # (N, 1, C)

    def start(self, features: Tensor) -> State:
        pooled = self.feature_dropout(self.standardise(features.float().mean(1)))  # (B, C)
        image = torch.relu(self.image(pooled))
        return State((image,), (torch.zeros_like(image), torch.zeros_like(image)))

    def picture(self, state: State) -> Tensor:
        return state.picture[0]

    def read(self, words: Tensor) -> Tensor:
        return self.cell.read(words)

    def advance(self, state: State, read: Tensor) -> tuple[Tensor, State]:
        (image,) = state.picture
        h, c = self.cell(read, [], *state.beam)
        both = image.unsqueeze(1) + h.unflatten(0, (image.shape[0], -1))  # (B, K, H)
        return both.flatten(0, 1), State(state.picture, (h, c))

    def unroll(self, state: State, read: Tensor) -> Tensor:
        (image,) = state.picture
        return image.unsqueeze(1) + self.cell.unroll(read, *state.beam)

    def combine(self, seen: Tensor, words: Tensor) -> Tensor:
        return torch.relu(self.dense(seen))
