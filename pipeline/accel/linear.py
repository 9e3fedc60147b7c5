"""Matrix products of a CPU through oneDNN: in float32 twice as fast as torch's own on processors that are not Intel's.

torch gives float32 products to MKL, which takes its older instructions on other makers' processors. oneDNN takes the
newest ones that are there, with weights put into the processor's own layout first. Elsewhere (another device, a build
of torch without oneDNN) everything is computed the usual way.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

SMALL = 1 << 14
"""Weights with fewer values than this gain nothing."""


class Product:
    """x W^T for one W (N, K) and many x (M, K), each about `rows` high."""

    def __init__(self, weight: Tensor, *, rows: int, bias: Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias
        self._packed = _packed(weight.contiguous(), rows) if _worth_it(weight, weight.dtype) else None

    def __call__(self, left: Tensor) -> Tensor:
        if self._packed is None:
            return functional.linear(left, self._weight, self._bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, self._packed, self._bias, "none", [], "")
        return found


def product(left: Tensor, right: Tensor) -> Tensor:
    """left (M, K) times right (K, N), once."""
    if left.dtype == torch.float32 and _worth_it(right, right.dtype):
        return Product(right.t(), rows=left.shape[0])(left.contiguous())
    return left @ right


class Linear(nn.Linear):
    """nn.Linear, with the products of its forward and backward pass as above. The parameters are nn.Linear's.

    Weights are packed again when torch's count of their changes says so, which `.data` goes around.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._kept: dict[tuple[torch.dtype, bool], tuple[int, int, Product]] = {}

    def forward(self, input: Tensor) -> Tensor:  # nn.Linear's name of it
        dtype = computed_in(self.weight)
        half = dtype != self.weight.dtype
        usual = torch.compiler.is_compiling() or self.weight.is_inference()
        if usual or not input.numel() or not _worth_it(self.weight, dtype) or (half and torch.is_grad_enabled()):
            return super().forward(input)
        if torch.is_grad_enabled():
            taught: Tensor = _Taught.apply(input, self.weight, self.bias, self)
            return taught
        return self.ready(dtype, rows=input.shape[:-1].numel())(input.to(dtype))

    def ready(self, dtype: torch.dtype, *, rows: int, transposed: bool = False) -> Product:
        """The weights as they are now, packed (for the bias too, unless transposed)."""
        state = (self.weight._version, self.weight.data_ptr())
        found = self._kept.get((dtype, transposed))
        if found is None or found[:2] != state:
            weight = self.weight.detach().to(dtype)
            bias = None if self.bias is None or transposed else self.bias.detach().to(dtype)
            found = (*state, Product(weight.t() if transposed else weight, rows=rows, bias=bias))
            self._kept[dtype, transposed] = found
        return found[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # the processor's layout cannot be copied


class _Taught(torch.autograd.Function):
    """x W^T + b in float32, differentiable."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, weight: Tensor, bias: Tensor | None, layer: Linear) -> Tensor:
        ctx.save_for_backward(left)
        ctx.layer, ctx.biased = layer, bias is not None
        return layer.ready(weight.dtype, rows=left.shape[:-1].numel())(left.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (left,) = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        of_left = None
        if ctx.needs_input_grad[0]:
            of_left = ctx.layer.ready(flat.dtype, rows=flat.shape[0], transposed=True)(flat.contiguous()).view_as(left)
        of_weight = product(flat.t(), left.reshape(-1, left.shape[-1]))
        return of_left, of_weight, flat.sum(0) if ctx.biased else None, None


def computed_in(values: Tensor) -> torch.dtype:
    """What matrix products of `values` are computed in: under autocast not in their own type."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def _worth_it(weight: Tensor, dtype: torch.dtype) -> bool:
    if weight.device.type != "cpu" or weight.numel() < SMALL or not _there():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _there() -> bool:
    operations = torch.ops.mkldnn
    return (
        hasattr(operations, "_linear_pointwise")
        and hasattr(operations, "_reorder_linear_weight")
        and torch.backends.mkldnn.is_available()
    )


def _count_change(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """torch counts the changes of a tensor, but not those by its fused optimizers."""
    for group in optimizer.param_groups:
        increment_version(group["params"])


register_optimizer_step_post_hook(_count_change)


def _packed(weight: Tensor, rows: int) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed
