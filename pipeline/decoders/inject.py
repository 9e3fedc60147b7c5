"""Show and Tell: the image is the LSTM's first input, followed by the caption.

O. Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015, equations 10-12:

    x_{-1} = W_image mean(features)                      (10)
    x_t    = W_embed token_t                             (11)
    p_{t+1} = softmax(W_output LSTM(x_t))                (12)

Unlike the paper, features are normalized per channel, and dropout is applied to features and embeddings too.
Shapes: see decoder.py.
"""

from torch import Tensor, nn

from pipeline.decoders.decoder import Decoder, Sizes, State, mean_over_regions
from pipeline.decoders.lstm import LSTM
from pipeline.decoders.registry import DecoderOptions


class Inject(Decoder):
    """The image as the first input of an LSTM."""

    def __init__(self, options: DecoderOptions, sizes: Sizes) -> None:
        super().__init__(options, sizes, output=options.hidden)
        self.image = nn.Linear(sizes.channels, options.embed)
        self.lstm = LSTM(options.embed, options.hidden, batch_first=True)

    def pool(self, features: Tensor) -> Tensor:
        return mean_over_regions(features.float(), self.real_regions(features)).unsqueeze(1)  # (N, 1, C)

    def start(self, features: Tensor) -> State:
        pooled = self.feature_dropout(self.normalize(self.pool(features).squeeze(1)))  # (B, C)
        image = self.image(pooled)  # (B, E), equation 10
        _, (h, c) = self.lstm(image.unsqueeze(1))  # (1, B, H) each
        return State((), (h[0], c[0]))

    def advance(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        h, c = state.beam  # (B K, H) each
        _, (h, c) = self.lstm(words.unsqueeze(1), (h.unsqueeze(0), c.unsqueeze(0)))
        return h[0], State((), (h[0], c[0]))

    def unroll(self, state: State, words: Tensor) -> Tensor:
        h, c = state.beam  # (B, H) each
        outputs: Tensor = self.lstm(words, (h.unsqueeze(0), c.unsqueeze(0)))[0]  # (B, T, H)
        return outputs

    def image_vector(self, state: State) -> Tensor:
        return state.beam[0]
