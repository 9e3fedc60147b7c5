"""The LSTM of the attention decoders, split so that what is known in advance is computed for all steps at once.

S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 1997, with forget gates (F. Gers et al.,
2000). `nn.LSTMCell` computes the same, but takes its whole input at each step.
"""

import torch
from torch import Tensor, nn


def gate_layer(inputs: int, hidden: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer from inputs (..., X) to a summand of the gates (..., 4 H), initialized as in `nn.LSTM`."""
    layer = nn.Linear(inputs, 4 * hidden, bias)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)
    return layer


class LSTMCell(nn.Module):
    """The part of an LSTM after the matrix products."""

    def forward(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c (B, H) from the gates before their nonlinearities (B, 4 H), in the order i, f, g, o:

        c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c').
        """
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class LSTM(nn.LSTM):
    """`nn.LSTM` that stays in float32 on a GPU: autocast would run it in float16, whatever its type, and float16 has
    no room for small gradients."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (B, T, H) and the last h and c (1, B, H), from inputs (B, T, X) and the first h and c."""
        if not inputs.is_cuda:
            return super().forward(inputs, state)
        with torch.autocast("cuda", enabled=False):
            first = None if state is None else (state[0].float(), state[1].float())
            return super().forward(inputs.float(), first)
