"""Dropout whose random numbers cost little: on a CPU, drawing them one by one takes a seventh of training's time.

N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014.
"""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU four values share a random number of 64 bits, so p is rounded to a 65,536th."""

    def forward(self, input: Tensor) -> Tensor:  # nn.Dropout's name of it
        if not self.training or not 0 < self.p < 1 or input.device.type != "cpu":
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: input.numel()].view(input.shape) >= round(self.p * 2**16) - 2**15
        return input * kept.to(input.dtype).mul_(1 / (1 - self.p))
