"""Faster ways to compute a decoder, chosen by device."""

import torch
from torch import nn

from pipeline.accel.attention import FastAdditiveAttention
from pipeline.accel.linear import PackedLinear, can_pack
from pipeline.decoders.additive_attention import AdditiveAttention
from pipeline.decoders.decoder import Decoder


def accelerate(decoder: Decoder, device: torch.device) -> Decoder:
    """Replace modules of `decoder`, which is on `device`, by ones that search faster there, and return it.

    On a CPU these are additive attention and linear layers; on other devices nothing is replaced. Parameters and their
    names stay the same, results up to rounding too. In training mode every module computes the plain form.
    """
    if device.type != "cpu":
        return decoder
    for name, module in list(decoder.named_modules()):
        if type(module) is AdditiveAttention:
            decoder.set_submodule(name, FastAdditiveAttention(module))
    for name, module in list(decoder.named_modules()):
        if type(module) is nn.Linear and can_pack(module.weight):
            decoder.set_submodule(name, PackedLinear(module))
    return decoder
