"""Merge: the LSTM reads the caption alone; image and text meet before the softmax.

M. Tanti et al., "Where to put the Image in an Image Caption Generator", Natural Language Engineering 2018, the merge
architecture:

    v = relu(W_image mean(features))
    p_{t+1} = softmax(W_output relu(W_dense (v + LSTM(token_1..t))))

The paper concatenates image and text; the sum and the dense layer are those of the Keras tutorials that made the
architecture popular.
Shapes: see decoder.py.
"""

import torch
from torch import Tensor, nn

from pipeline.decoders.decoder import Decoder, Sizes, State, mean_over_regions
from pipeline.decoders.lstm import LSTM
from pipeline.decoders.registry import DecoderOptions


class Merge(Decoder):
    """An LSTM over the caption, whose hidden state is added to the image."""

    def __init__(self, options: DecoderOptions, sizes: Sizes) -> None:
        super().__init__(options, sizes, output=options.hidden)
        self.image = nn.Linear(sizes.channels, options.hidden)
        self.lstm = LSTM(options.embed, options.hidden, batch_first=True)
        self.dense = nn.Linear(options.hidden, options.hidden)

    def pool(self, features: Tensor) -> Tensor:
        return mean_over_regions(features.float(), self.real_regions(features)).unsqueeze(1)  # (N, 1, C)

    def start(self, features: Tensor) -> State:
        pooled = self.feature_dropout(self.normalize(self.pool(features).squeeze(1)))  # (B, C)
        image = torch.relu(self.image(pooled))  # (B, H)
        return State((image,), (torch.zeros_like(image), torch.zeros_like(image)))

    def advance(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        (image,), (h, c) = state
        _, (h, c) = self.lstm(words.unsqueeze(1), (h.unsqueeze(0), c.unsqueeze(0)))
        text = h[0].unflatten(0, (image.shape[0], -1))  # (B, K, H)
        return self._merge(image, text).flatten(0, 1), State(state.image, (h[0], c[0]))

    def unroll(self, state: State, words: Tensor) -> Tensor:
        (image,), (h, c) = state
        text, _ = self.lstm(words, (h.unsqueeze(0), c.unsqueeze(0)))  # (B, T, H)
        return self._merge(image, text)

    def image_vector(self, state: State) -> Tensor:
        return state.image[0]

    def _merge(self, image: Tensor, text: Tensor) -> Tensor:
        return torch.relu(self.dense(image.unsqueeze(1) + text))  # (B, T or K, H)
