"""A frozen network rewritten to run fast: batch norm folded, activations and residual sums fused, weights packed.

What it computes stays the same but for rounding. On a CPU each convolution becomes one oneDNN call whose weights were
put into the processor's own layout once, instead of at every call: that is what makes one picture at a time nearly as
fast as a batch. Whatever cannot be rewritten (a network that does not trace, a build of torch without oneDNN) runs as
it is.

B pictures, S input side.
"""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

_ACTIVATIONS: dict[Any, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
    functional.relu: ("relu", []),
    torch.relu: ("relu", []),
}
"""oneDNN's names of the activations that it computes inside a convolution, with their arguments."""
_SUMS = (operator.add, operator.iadd, torch.add)


def fused(network: nn.Module, size: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy of `network` for pictures (B, 3, S, S) of `dtype` in channels-last order, with S = `size`."""
    ready = copy.deepcopy(network).eval()  # torchvision's extractors are in training mode again after a copy
    try:
        graph = fx.symbolic_trace(ready)
    except Exception:  # tracing fails with whatever the network's own code raises; it then runs as it is
        graph = None
    if graph is not None:
        _fold_batch_norm(graph.eval())
        if device.type == "cpu" and _can_pack(dtype):
            _pack_convolutions(graph, size, dtype)
        graph.graph.lint()
        graph.recompile()
        ready = graph
    return ready.to(dtype=dtype).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _can_pack(dtype: torch.dtype) -> bool:
    operations = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and hasattr(
        torch._C._nn, "mkldnn_reorder_conv2d_weight"
    )
    if not operations or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fold_batch_norm(graph: fx.GraphModule) -> None:
    modules = dict(graph.named_modules())
    for layer in list(graph.graph.nodes):
        if layer.op != "call_module" or not isinstance(modules[layer.target], nn.BatchNorm2d):
            continue
        before = layer.args[0]
        if before.op == "call_module" and type(modules[before.target]) is nn.Conv2d and len(before.users) == 1:
            graph.set_submodule(before.target, fuse_conv_bn_eval(modules[before.target], modules[layer.target]))
            modules[before.target] = graph.get_submodule(before.target)
            layer.replace_all_uses_with(before)
            graph.graph.erase_node(layer)


class PackedConvolution(nn.Module):
    """A convolution, with its activation or with a sum and a ReLU behind it, as one call.

    The weights are no parameters: their layout is the processor's and cannot be saved or moved.
    """

    def __init__(
        self, convolution: nn.Conv2d, shape: list[int], activation: str, arguments: list[float], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._places = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._activation = activation
        self._arguments = arguments
        weight = convolution.weight.detach().to(dtype)
        self._weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            weight.contiguous(memory_format=torch.channels_last).to_mkldnn(), *self._places, shape
        )
        self._bias = None if convolution.bias is None else convolution.bias.detach().to(dtype)

    def forward(self, pictures: Tensor, other: Tensor | None = None) -> Tensor:
        """activation(convolution(pictures)), or relu(convolution(pictures) + other)."""
        if other is None:
            output: Tensor = torch.ops.mkldnn._convolution_pointwise(
                pictures, self._weight, self._bias, *self._places, self._activation, self._arguments, ""
            )
        else:
            output = torch.ops.mkldnn._convolution_pointwise.binary(
                pictures, other, self._weight, self._bias, *self._places, "add", 1.0, "relu", [], ""
            )
        return output


def _pack_convolutions(graph: fx.GraphModule, size: int, dtype: torch.dtype) -> None:
    shapes = _input_shapes(graph, size)
    modules = dict(graph.named_modules())
    without_activation: set[fx.Node] = set()
    for number, layer in enumerate(list(graph.graph.nodes)):
        if layer.op != "call_module" or type(modules[layer.target]) is not nn.Conv2d:
            continue
        convolution = modules[layer.target]
        if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        after = _only_user(layer)
        activation, arguments = _activation(after, modules) if after else ("none", [])
        packed = PackedConvolution(convolution, shapes[layer], activation, arguments, dtype)
        name = f"packed_{number}"  # of its own: a module that the network calls twice is packed for each place
        graph.add_submodule(name, packed)
        layer.target = name
        if after is None or activation == "none":
            without_activation.add(layer)
        else:
            after.replace_all_uses_with(layer)
            graph.graph.erase_node(after)
    _fuse_residual_sums(graph, without_activation, modules)


def _fuse_residual_sums(graph: fx.GraphModule, convolutions: set[fx.Node], modules: dict[str, nn.Module]) -> None:
    """relu(convolution + other) becomes one call wherever `other` is there before the convolution runs."""
    order = {layer: place for place, layer in enumerate(graph.graph.nodes)}
    for layer in list(graph.graph.nodes):
        after = _only_user(layer)
        if layer.op != "call_function" or layer.target not in _SUMS or after is None or len(layer.args) != 2:
            continue
        if _activation(after, modules)[0] != "relu" or not all(isinstance(one, fx.Node) for one in layer.args):
            continue
        first, second = sorted(layer.args, key=lambda one: order[one])
        if second in convolutions and len(second.users) == 1 and first is not second:
            second.args = (second.args[0], first)
            after.replace_all_uses_with(second)
            graph.graph.erase_node(after)
            graph.graph.erase_node(layer)


def _only_user(layer: fx.Node) -> fx.Node | None:
    return next(iter(layer.users)) if len(layer.users) == 1 else None


def _activation(layer: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, list[float]]:
    if layer.op == "call_module":
        return _ACTIVATIONS.get(type(modules.get(str(layer.target))), ("none", []))
    if layer.op == "call_function":
        return _ACTIVATIONS.get(layer.target, ("none", []))
    return "none", []


def _input_shapes(graph: fx.GraphModule, size: int) -> dict[fx.Node, list[int]]:
    """The shape that each layer's first input has for one picture."""
    shapes: dict[fx.Node, list[int]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n.op == "call_module":
                (first, *_), _ = self.fetch_args_kwargs_from_env(n)
                shapes[n] = list(first.shape) if isinstance(first, Tensor) else []
            return super().run_node(n)

    with torch.inference_mode():
        Recorder(graph).run(torch.zeros(1, 3, size, size))
    return shapes
