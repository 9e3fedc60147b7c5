"""Show, Attend and Tell: before each word the LSTM chooses where to look.

K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015: soft
attention (equations 4-6, 13) with the gate beta (section 4.2.1) and the deep output (equation 7). Otherwise than there,
the gate has a value per channel, and the sum of the deep output is bent by tanh, with dropout before and after it.
Shapes: see protocol.py; A attention.
"""

import torch
from torch import Tensor

from pipeline.accel.linear import Linear
from pipeline.decoders.additive_attention import AttentionDecoder, Sight
from pipeline.decoders.decoder import DecoderConfig, State
from pipeline.decoders.lstm import LSTMCell


class Attention(AttentionDecoder):
    """Soft attention over the regions, read by an LSTM cell."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__(sizes, sizes.embed)
        self.gate = Linear(sizes.hidden, sizes.hidden)
        self.initial = Linear(sizes.hidden, 2 * sizes.hidden)
        self.cell = LSTMCell(words=sizes.embed, other=sizes.hidden, hidden=sizes.hidden, layer_norm=sizes.layer_norm)
        self.deep = Linear(2 * sizes.hidden + sizes.embed, sizes.embed)

    def start(self, features: Tensor) -> State:
        values = self.regions(self.feature_dropout(self.standardise(features)))  # (B, R, H)
        h, c = self.initial(values.mean(1)).tanh().chunk(2, -1)
        return State((values, self.look.keys(values)), (h, c, values.new_zeros(values.shape[:2])))

    def picture(self, state: State) -> Tensor:
        return state.picture[0].mean(1)

    def read(self, words: Tensor) -> Tensor:
        return self.cell.read(words)

    def after_looking(self, state: State, read: Tensor, look: Sight) -> tuple[Tensor, State]:
        h, c, _ = state.beam
        context, weights = look(h)
        context = torch.sigmoid(self.gate(h)) * context
        h, c = self.cell(read, [context], h, c)
        return torch.cat([h, context], -1), State(state.picture, (h, c, weights))

    def combine(self, seen: Tensor, words: Tensor) -> Tensor:
        return torch.tanh(self.deep(self.output_dropout(torch.cat([seen, words], -1))))
