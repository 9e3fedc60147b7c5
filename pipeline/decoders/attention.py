"""Show, Attend and Tell: before each word the LSTM chooses where to look.

K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015: soft
attention (equations 4-6, 13) with the gate beta (section 4.2.1) and the deep output (equation 7). Ours adds a learned
vector per region to what is compared and read, so that the decoder knows where a region is: "left of" needs it.
Shapes: see protocol.py; A attention.
"""

import torch
from torch import Tensor, nn

from pipeline.decoders.protocol import PAD, Decoder, Standardise, State


class Attention(Decoder):
    """Soft attention over the regions, read by an LSTM cell."""

    def __init__(
        self, *, vocabulary: int, regions: int, channels: int, embed: int, hidden: int, attention: int, dropout: float
    ) -> None:
        super().__init__()
        self.standardise = Standardise(channels)
        self.region = nn.Linear(channels, hidden)
        self.position = nn.Parameter(torch.zeros(regions, hidden))
        nn.init.normal_(self.position, std=0.5)
        self.keys = nn.Linear(hidden, attention)
        self.query = nn.Linear(hidden, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(hidden, hidden)
        self.initial = nn.Linear(hidden, 2 * hidden)
        self.embedding = nn.Embedding(vocabulary, embed, padding_idx=PAD)
        self.cell = nn.LSTMCell(embed + hidden, hidden)
        self.combine = nn.Linear(2 * hidden + embed, embed)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(embed, vocabulary)

    def start(self, features: Tensor) -> State:
        values = torch.relu(self.region(self.dropout(self.standardise(features))) + self.position)  # (B, R, H)
        h, c = self.initial(values.mean(1)).tanh().chunk(2, -1)
        looked = values.new_zeros(values.shape[:2])
        return values, self.keys(values), h, c, looked

    def hidden(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        values, keys, h, c, _ = state
        scores = self.score(torch.tanh(keys + self.query(h).unsqueeze(1))).squeeze(-1)
        weights = scores.softmax(-1)  # (B, R)
        context = torch.bmm(weights.unsqueeze(1), values).squeeze(1)  # (B, H)
        context = torch.sigmoid(self.gate(h)) * context
        word = self.dropout(self.embedding(tokens))
        h, c = self.cell(torch.cat([word, context], -1), (h, c))
        output = torch.tanh(self.combine(torch.cat([self.dropout(h), context, word], -1)))
        return self.dropout(output), (values, keys, h, c, weights)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output(hidden)
        return logits

    def attention_map(self, state: State) -> Tensor | None:
        return state[-1]
