"""Show and Tell: the picture is the first thing that the LSTM reads, words are the rest.

O. Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015, equations 10-12.
Shapes: see protocol.py.
"""

from torch import Tensor, nn

from pipeline.decoders.protocol import PAD, Decoder, Standardise, State


class Inject(Decoder):
    """x_{-1} = W_image mean(features); x_t = W_embed word_t; p_{t+1} = softmax(W_out LSTM(x_t))."""

    def __init__(self, *, vocabulary: int, channels: int, embed: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(channels)
        self.image = nn.Linear(channels, embed)
        self.embedding = nn.Embedding(vocabulary, embed, padding_idx=PAD)
        self.cell = nn.LSTMCell(embed, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary)

    def start(self, features: Tensor) -> State:
        pooled = self.standardise(features).mean(1)  # (B, C)
        state: State = self.cell(self.dropout(self.image(pooled)))
        return state

    def hidden(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        h, c = self.cell(self.dropout(self.embedding(tokens)), state)
        return self.dropout(h), (h, c)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output(hidden)
        return logits
