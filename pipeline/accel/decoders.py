"""Faster ways to compute a decoder, chosen by device."""

import warnings

import torch
from torch import nn

from pipeline.accel.attention import FastAdditiveAttention
from pipeline.accel.linear import PackedLinear, can_pack
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.lstm import LSTMCell
from pipeline.decoders.soft_attention import AdditiveAttention, RegionEmbedding


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
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            warnings.warn(f"the decoder runs without its own GPU kernels, which is slower: {reason}", stacklevel=2)
    return decoder


def _use_kernels(decoder: Decoder, device: torch.device) -> None:
    """Replace modules by Triton kernels. Raises if they do not run here: Triton needs a C compiler, for instance."""
    from pipeline.accel.fused_attention import FusedAdditiveAttention
    from pipeline.accel.fused_lstm import FusedLSTMCell

    modules = list(decoder.named_modules())
    cells: dict[str, nn.Module] = {name: FusedLSTMCell() for name, module in modules if type(module) is LSTMCell}
    attention = {name: FusedAdditiveAttention(module) for name, module in modules if type(module) is AdditiveAttention}
    regions = [len(module.position) for _, module in modules if isinstance(module, RegionEmbedding)]
    for one, count in zip(attention.values(), regions, strict=True):
        _try(one, FusedLSTMCell(), count, device, padded=decoder.padded)
    for name, module in (cells | attention).items():
        decoder.set_submodule(name, module)


def _try(attention: AdditiveAttention, cell: LSTMCell, regions: int, device: torch.device, *, padded: bool) -> None:
    """Compile and run the kernels for a decoder's sizes. Changes neither gradients nor random numbers."""
    hidden = attention.key.in_features
    with torch.enable_grad():
        values = torch.ones(1, regions, hidden, device=device, requires_grad=True)
        real = torch.ones(1, regions, dtype=torch.bool, device=device) if padded else None
        keys = attention.project_keys(values)
        context, _ = attention(values, keys, torch.ones(1, hidden, device=device), real)
        h, _ = cell(context.repeat(1, 4), context)
        torch.autograd.grad(h.sum(), values)
