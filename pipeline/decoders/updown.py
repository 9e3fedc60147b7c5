"""Up-Down: one LSTM decides where to look, another one what to say.

P. Anderson et al., "Bottom-Up and Top-Down Attention for Image BaseCaptioner and Visual Question Answering", CVPR 2018,
section 3.2: equations 2 (attention LSTM), 3-5 (attention) and 6-7 (language LSTM), on the grid of a CNN.
Shapes: see protocol.py; A attention.
"""

import torch
from torch import Tensor

from pipeline.decoders.additive_attention import AttentionDecoder, Sight
from pipeline.decoders.decoder import DecoderConfig, State
from pipeline.decoders.lstm import LSTMCell


class UpDown(AttentionDecoder):
    """h1 = LSTM1([h2, mean(values), word]); context = attend(values, h1); h2 = LSTM2([context, h1])."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__(sizes, sizes.hidden)
        hidden, layer_norm = sizes.hidden, sizes.layer_norm
        self.attending = LSTMCell(words=sizes.embed, other=2 * hidden, hidden=hidden, layer_norm=layer_norm)
        self.speaking = LSTMCell(words=0, other=2 * hidden, hidden=hidden, layer_norm=layer_norm)

    def start(self, features: Tensor) -> State:
        values = self.regions(self.feature_dropout(self.standardise(features)))  # (B, R, H)
        mean = values.mean(1)
        nothing = (torch.zeros_like(mean),) * 4
        return State((values, self.look.keys(values), mean), (*nothing, values.new_zeros(values.shape[:2])))

    def picture(self, state: State) -> Tensor:
        return state.picture[2]

    def read(self, words: Tensor) -> Tensor:
        return self.attending.read(words)

    def after_looking(self, state: State, read: Tensor, look: Sight) -> tuple[Tensor, State]:
        mean = state.picture[2]
        h1, c1, h2, c2, _ = state.beam
        mean = mean.repeat_interleave(h1.shape[0] // mean.shape[0], 0)  # (B K, H)
        h1, c1 = self.attending(read, [h2, mean], h1, c1)
        context, weights = look(h1)
        h2, c2 = self.speaking(None, [context, h1], h2, c2)
        return h2, State(state.picture, (h1, c1, h2, c2, weights))
