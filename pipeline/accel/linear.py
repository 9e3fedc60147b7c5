"""Linear layers on a CPU through oneDNN, with packed weights.

torch computes float32 products with MKL, which does not use the widest vectors of processors of other makers than
Intel. oneDNN does, and it reads weights in an order of its own, into which they are packed once.

Measured on one Zen 5 core with `benchmarks/search.py` (beam 5, batches of 64 images, hidden 512), images/s beside
`nn.Linear`: inject and merge 1.4 times (float32) and 1.07 times (bfloat16); attention and updown, both with fast
attention, 1.7 to 1.8 and 1.03 to 1.09 times.
"""

from typing import Any, NamedTuple, Self

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


class _Packed(NamedTuple):
    source: tuple[torch.dtype, int, int]
    """What the weight was packed for: the type, and the version and address of the weight."""
    weight: Tensor
    bias: Tensor | None


class PackedLinear(nn.Linear):
    """`nn.Linear` with the same parameters and results (up to rounding), faster in evaluation mode.

    The weight is packed at its first use in evaluation mode, and again after training mode or a change in place. (A
    fused optimizer changes weights without a new version, hence the former.)
    """

    def __init__(self, plain: nn.Linear) -> None:
        """Share the parameters of `plain`."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._packed: _Packed | None = None
        self.train(plain.training)

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._packed = None
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear's name of the parameter
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else self.weight.dtype
        if self._plain(dtype) or not input.numel():
            return super().forward(input)
        packed = self._packed
        if packed is None or packed.source != (dtype, self.weight._version, self.weight.data_ptr()):
            packed = self._packed = self._pack(dtype, rows=input.numel() // self.in_features)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input.to(dtype), packed.weight, packed.bias, "none", [], "")
        return output

    def _plain(self, dtype: torch.dtype) -> bool:
        return (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or self.weight.is_inference()  # has no version
            or not (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )

    def _pack(self, dtype: torch.dtype, rows: int) -> _Packed:
        weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype), rows)
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return _Packed((dtype, self.weight._version, self.weight.data_ptr()), weight, bias)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a packed weight cannot be copied
