"""Compiles the kernels for a Hopper GPU, which needs none. `test_fused_kernels.py` runs this file."""

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.accel import fused_attention, fused_lstm

TYPES = {"beams": "i32", "hidden": "i32", "real": "*i1"}
"""Of arguments that are no float32 tensors."""


def compile_kernel(kernel, constants):
    """Raises what Triton raises at a first launch."""
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "*fp32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    print(kernel.__name__)


for regions, hidden, attention in ((49, 512, 512), (1024, 2, 2), (36, 300, 200)):
    shapes = torch.empty(1, regions, hidden), torch.empty(1, regions, attention)
    for real in (None, torch.empty(1)):
        blocks = fused_attention._blocks(*shapes, real)
        compile_kernel(fused_attention._attend_forward, blocks)
        compile_kernel(fused_attention._attend_backward, blocks)
for kernel in (fused_lstm._forward, fused_lstm._backward):
    compile_kernel(kernel, {"BLOCK": fused_lstm.BLOCK})
