"""Faster ways to compute a decoder, chosen by device."""

import warnings

import torch
from torch import nn

from pipeline.accel.attention import FastAdditiveAttention
from pipeline.accel.linear import PackedLinear, can_pack
from pipeline.decoders.additive_attention import AdditiveAttention
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.lstm import LSTMCell


def accelerate(decoder: Decoder, device: torch.device) -> Decoder:
    """Replace modules of `decoder`, which is on `device`, by ones that are faster there, and return it.

    On a CPU these are additive attention and linear layers, for search: in training mode they compute the plain form.
    On an NVIDIA GPU they are additive attention and the LSTM cell of the attention decoders, for training as well.
    Parameters and their names stay the same, results up to rounding too.
    """
    if device.type == "cpu":
        for name, module in list(decoder.named_modules()):
            if type(module) is AdditiveAttention:
                decoder.set_submodule(name, FastAdditiveAttention(module))
        for name, module in list(decoder.named_modules()):
            if type(module) is nn.Linear and can_pack(module.weight):
                decoder.set_submodule(name, PackedLinear(module))
    elif device.type == "cuda" and any(type(module) in (AdditiveAttention, LSTMCell) for module in decoder.modules()):
        try:
            _use_kernels(decoder, device)
        except Exception as error:  # Triton and the compilers that it calls raise many kinds
            warnings.warn(f"the decoder runs without its own GPU kernels, which is slower: {error}", stacklevel=2)
    return decoder


def _use_kernels(decoder: Decoder, device: torch.device) -> None:
    """Replace modules by Triton kernels. Raises if they do not run here: Triton needs a C compiler, for instance."""
    from pipeline.accel.fused_attention import FusedAdditiveAttention
    from pipeline.accel.fused_lstm import FusedLSTMCell

    modules = list(decoder.named_modules())
    cells: dict[str, nn.Module] = {name: FusedLSTMCell() for name, module in modules if type(module) is LSTMCell}
    attention = {name: FusedAdditiveAttention(module) for name, module in modules if type(module) is AdditiveAttention}
    for one in attention.values():  # a first use that changes neither gradients nor the state of random numbers
        hidden = one.key.in_features
        with torch.enable_grad():
            values = torch.ones(1, 2, hidden, device=device, requires_grad=True)
            context, _ = one(values, one.project_keys(values), torch.ones(1, hidden, device=device))
            h, _ = FusedLSTMCell()(context.repeat(1, 4), context)
            torch.autograd.grad(h.sum(), values)
    for name, module in (cells | attention).items():
        decoder.set_submodule(name, module)
