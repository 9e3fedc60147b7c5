"""Soft attention over the regions of an image, in its additive form, shared by the attention decoders.

Shapes: see decoder.py; A width of the attention's hidden layer.
"""

import torch
from torch import Tensor, nn

PADDING_SCORE = -1e9
"""The score of a region that is padding; finite, so that an image without regions gives no NaN."""


class RegionEmbedding(nn.Module):
    """Region vectors relu(W features + position), (B, R, H), from normalized features (B, R, C).

    The papers have no learned position; without it attention cannot tell left from right.
    """

    def __init__(self, *, regions: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, hidden)
        self.position = nn.Parameter(torch.zeros(regions, hidden))
        nn.init.normal_(self.position, std=0.5)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.project(features) + self.position)


class AdditiveAttention(nn.Module):
    """Soft attention: weights of the regions given the hidden state, and the regions' weighted sum.

        score_r = w tanh(W_key value_r + W_query h)
        weights = softmax(score)                      over the real regions; padding has weight 0
        context = sum_r weights_r value_r

    D. Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015;
    K. Xu et al., "Show, Attend and Tell", ICML 2015, equations 4-6 and 13.
    """

    def __init__(self, *, hidden: int, attention: int) -> None:
        super().__init__()
        self.key = nn.Linear(hidden, attention)
        self.query = nn.Linear(hidden, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)

    def project_keys(self, values: Tensor) -> Tensor:
        """The keys (B, R, A) of region vectors `values` (B, R, H): the same for all steps."""
        keys: Tensor = self.key(values)
        return keys

    def forward(self, values: Tensor, keys: Tensor, h: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The context (B K, H) and the weights (B K, R), for region vectors, their keys and hidden states (B K, H).

        `real` (B, R) is False for padding; None: there is no padding.
        """
        query = self.query(h).unflatten(0, (values.shape[0], -1))  # (B, K, A)
        hidden = torch.tanh(keys.unsqueeze(1) + query.unsqueeze(2))  # (B, K, R, A)
        scores = self.score(hidden).squeeze(-1).float()  # (B, K, R)
        if real is not None:
            scores = scores.masked_fill(~real.unsqueeze(1), PADDING_SCORE)
        weights = scores.softmax(-1)  # (B, K, R)
        context = torch.bmm(weights.to(values.dtype), values)  # (B, K, H)
        return context.flatten(0, 1), weights.flatten(0, 1)
