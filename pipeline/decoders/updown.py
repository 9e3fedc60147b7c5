"""Up-Down: an attention LSTM computes the attention weights, a language LSTM the next token.

P. Anderson et al., "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering", CVPR 2018,
section 3.2:

    h1_t = LSTM1([h2_{t-1}, mean(values), token_t], h1_{t-1})       (2)
    context_t = attend(values, h1_t)                                (3-5)
    h2_t = LSTM2([context_t, h1_t], h2_{t-1})                       (6)
    p_{t+1} = softmax(W_output h2_t)                                (7)

Unlike the paper, regions have a learned position, since they usually are the grid of a CNN.
Shapes: see decoder.py.
"""

import torch
from torch import Tensor

from pipeline.decoders.decoder import Decoder, Sizes, State, mean_over_regions
from pipeline.decoders.lstm import LSTMCell, gate_layer
from pipeline.decoders.registry import AttentionOptions
from pipeline.decoders.soft_attention import AdditiveAttention, RegionEmbedding


class UpDown(Decoder):
    """Two LSTMs, one for attention and one for language."""

    def __init__(self, options: AttentionOptions, sizes: Sizes) -> None:
        embed, hidden = options.embed, options.hidden
        super().__init__(options, sizes, output=hidden)
        self.regions = RegionEmbedding(regions=sizes.regions, channels=sizes.channels, hidden=hidden)
        self.attend = AdditiveAttention(hidden=hidden, attention=options.attention)
        self.word_gates = gate_layer(embed, hidden)
        self.image_gates = gate_layer(hidden, hidden, bias=False)
        self.attention_gates = gate_layer(2 * hidden, hidden, bias=False)
        self.language_gates = gate_layer(3 * hidden, hidden)
        self.cell = LSTMCell()

    def start(self, features: Tensor) -> State:
        real = self.real_regions(features)  # (B, R)
        values = self.regions(self.feature_dropout(self.normalize(features)))  # (B, R, H)
        mean = mean_over_regions(values, real)  # (B, H)
        h1, c1, h2, c2 = (torch.zeros_like(mean) for _ in range(4))
        weights = values.new_zeros(values.shape[:2])  # (B, R)
        image = (values, self.attend.project_keys(values), self.image_gates(mean))
        return State(image if real is None else (*image, real), (h1, c1, h2, c2, weights))

    def advance(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        words = words.unflatten(0, (state.image[0].shape[0], -1))  # (B, K, E)
        return self._recur(state, self._input_gates(state, words).flatten(0, 1))

    def unroll(self, state: State, words: Tensor) -> Tensor:
        outputs = []
        for gates in self._input_gates(state, words).unbind(1):  # T times (B, 4 H)
            h2, state = self._recur(state, gates)
            outputs.append(h2)
        return torch.stack(outputs, 1)  # (B, T, H)

    def image_vector(self, state: State) -> Tensor:
        values, _, _, *real = state.image
        return mean_over_regions(values, *real)

    def attention_weights(self, state: State) -> Tensor:
        return state.beam[4]

    def _input_gates(self, state: State, words: Tensor) -> Tensor:
        """The summand of LSTM1's gates (B, N, 4 H) that tokens (B, N, E) and image give; N is T steps or K beams."""
        gates: Tensor = self.word_gates(words) + state.image[2].unsqueeze(1)
        return gates

    def _recur(self, state: State, input_gates: Tensor) -> tuple[Tensor, State]:
        """h2 (B K, H) and the next state, given the tokens' and the image's summand of LSTM1's gates (B K, 4 H)."""
        (values, keys, _, *real), (h1, c1, h2, c2, _) = state
        h1, c1 = self.cell(input_gates + self.attention_gates(torch.cat([h2, h1], -1)), c1)  # equation 2
        context, weights = self.attend(values, keys, h1, *real)  # (B K, H), (B K, R); equations 3-5
        h2, c2 = self.cell(self.language_gates(torch.cat([context, h1, h2], -1)), c2)  # equation 6
        return h2, State(state.image, (h1, c1, h2, c2, weights))
