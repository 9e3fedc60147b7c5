"""Show, Attend and Tell: soft attention over the regions before each token.

K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015:

    c_0 = tanh(W_c mean(values)), h_0 = tanh(W_h mean(values))      (section 3.1.2)
    context_t = sigmoid(W_gate h_{t-1}) attend(values, h_{t-1})     (4-6, 13; gate beta of section 4.2.1)
    h_t = LSTM([token_t, context_t], h_{t-1})                       (1-3)
    p_{t+1} = softmax(W_output tanh(W_deep [h_t, context_t, token_t]))     (7)

Unlike the paper, the gate has one value per channel instead of one per step, the deep output has a tanh with dropout
before and after it, the initial state has one layer, and regions have a learned position.
Shapes: see decoder.py.
"""

import torch
from torch import Tensor, nn

from pipeline.decoders.decoder import Decoder, Sizes, State, mean_over_regions
from pipeline.decoders.lstm import LSTMCell, gate_layer
from pipeline.decoders.registry import AttentionOptions
from pipeline.decoders.soft_attention import AdditiveAttention, RegionEmbedding


class Attention(Decoder):
    """Soft attention over the regions, followed by an LSTM."""

    def __init__(self, options: AttentionOptions, sizes: Sizes) -> None:
        embed, hidden = options.embed, options.hidden
        super().__init__(options, sizes, output=embed)
        self.regions = RegionEmbedding(regions=sizes.regions, channels=sizes.channels, hidden=hidden)
        self.attend = AdditiveAttention(hidden=hidden, attention=options.attention)
        self.initial = nn.Linear(hidden, 2 * hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.word_gates = gate_layer(embed, hidden)
        self.recurrent_gates = gate_layer(2 * hidden, hidden, bias=False)
        self.cell = LSTMCell()
        self.deep = nn.Linear(2 * hidden + embed, embed)

    def start(self, features: Tensor) -> State:
        real = self.real_regions(features)  # (B, R)
        values = self.regions(self.feature_dropout(self.normalize(features)))  # (B, R, H)
        h, c = self.initial(mean_over_regions(values, real)).tanh().chunk(2, -1)  # (B, H) each
        weights = values.new_zeros(values.shape[:2])  # (B, R)
        image = (values, self.attend.project_keys(values))
        return State(image if real is None else (*image, real), (h, c, weights))

    def advance(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        output, state = self._recur(state, self.word_gates(words))
        return self._deep_output(output, words), state

    def unroll(self, state: State, words: Tensor) -> Tensor:
        outputs = []
        for gates in self.word_gates(words).unbind(1):  # T times (B, 4 H)
            output, state = self._recur(state, gates)
            outputs.append(output)
        return self._deep_output(torch.stack(outputs, 1), words)  # (B, T, E)

    def image_vector(self, state: State) -> Tensor:
        values, _, *real = state.image
        return mean_over_regions(values, *real)

    def attention_weights(self, state: State) -> Tensor:
        return state.beam[2]

    def _recur(self, state: State, word_gates: Tensor) -> tuple[Tensor, State]:
        """[h, context] (B K, 2 H) and the next state, given the tokens' summand of the gates (B K, 4 H)."""
        (values, keys, *real), (h, c, _) = state
        context, weights = self.attend(values, keys, h, *real)  # (B K, H), (B K, R)
        context = torch.sigmoid(self.gate(h)) * context
        h, c = self.cell(word_gates + self.recurrent_gates(torch.cat([context, h], -1)), c)
        return torch.cat([h, context], -1), State(state.image, (h, c, weights))

    def _deep_output(self, output: Tensor, words: Tensor) -> Tensor:
        """(..., E) of [h, context] (..., 2 H) and embedded tokens (..., E), equation 7."""
        return torch.tanh(self.deep(self.output_dropout(torch.cat([output, words], -1))))
