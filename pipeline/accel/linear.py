"""Linear layers on a CPU through oneDNN, with packed weights.

torch computes float32 products with MKL, which does not use the widest vectors of processors of other makers than
Intel. oneDNN does, and it reads weights in an order of its own, into which they are packed once.

Measured on one Zen 5 core with `benchmarks/search.py` (beam 5, batches of 64 images, hidden 512), images/s beside
`nn.Linear`: inject and merge 1.4 times (float32) and 1.07 times (bfloat16); attention and updown, both with fast
attention, 1.7 to 1.8 and 1.03 to 1.09 times.
"""

import torch
from torch import Tensor, nn

MIN_VALUES = 1 << 14
"""A smaller weight gains nothing."""


def can_pack(weight: Tensor) -> bool:
    """Whether packing helps and this build of torch has the operators, which are private and may change."""
    operators = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    return (
        weight.device.type == "cpu"
        and weight.numel() >= MIN_VALUES
        and torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in names)
    )


class PackedLinear(nn.Linear):
    """`nn.Linear` with the same parameters and results (up to rounding), faster. Its weight must not change."""

    def __init__(self, plain: nn.Linear) -> None:
        """Share the parameters of `plain`."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._packed: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}
        """Weight and bias by the type that they are used in."""

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear's name of the parameter
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.weight.dtype
        supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if torch.is_grad_enabled() or not supported or not input.numel():
            return super().forward(input)
        if dtype not in self._packed:
            rows = input.numel() // self.in_features
            weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype), rows)
            self._packed[dtype] = weight, None if self.bias is None else self.bias.detach().to(dtype)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input.to(dtype), *self._packed[dtype], "none", [], "")
        return output
