"""All steps of a plain LSTM at once, with its derivative written out.

Autograd would keep a graph of a dozen operations for every step, and add up the gradient of the recurrent weights step
by step. Written out, what does not depend on the previous step is one matrix product over all steps: backpropagation
through time as P. Werbos, 1990. A test compares it with autograd's.
B captions, T steps, H hidden.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.accel.linear import Product, computed_in, product


def unroll(read: Tensor, weight: Tensor, h: Tensor, c: Tensor) -> Tensor:
    """The states h (B, T, H) of i, f, g, o = read_t + weight h_{t-1}; c = f c + i g; h = o tanh(c).

    `read` (B, T, 4 H), `weight` (4 H, H), the first h and c (B, H). Under autocast to bfloat16 the products are in
    bfloat16, and all else in float32.
    """
    states: Tensor = _Unrolled.apply(read, weight, h, c, computed_in(weight))
    return states


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, read: Tensor, weight: Tensor, h: Tensor, c: Tensor, dtype: torch.dtype) -> Tensor:
        batch, steps, hidden = read.shape[0], read.shape[1], read.shape[2] // 4
        recurrent = Product(weight.to(dtype), rows=batch)
        gates = read.transpose(0, 1).to(weight.dtype, copy=True, memory_format=torch.contiguous_format)  # (T, B, 4 H)
        outputs = torch.empty(steps + 1, batch, hidden, dtype=dtype, device=read.device)  # h, with the one before
        memory = gates.new_empty(steps + 1, batch, hidden)  # c, with the one before
        bent = gates.new_empty(steps, batch, hidden)  # tanh(c)
        outputs[0], memory[0] = h, c
        for t in range(steps):
            gates[t] += recurrent(outputs[t])
            gates[t, :, : 2 * hidden].sigmoid_()
            gates[t, :, 2 * hidden : 3 * hidden].tanh_()
            gates[t, :, 3 * hidden :].sigmoid_()
            write, forget, candidate, output = gates[t].chunk(4, 1)
            torch.mul(forget, memory[t], out=memory[t + 1]).addcmul_(write, candidate)
            torch.tanh(memory[t + 1], out=bent[t])
            outputs[t + 1] = bent[t] * output
        ctx.save_for_backward(gates, outputs, memory, bent, weight)
        return outputs[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, outputs, memory, bent, weight = ctx.saved_tensors
        steps, batch, hidden = bent.shape
        transposed = Product(weight.to(outputs.dtype).t(), rows=batch)
        before = torch.empty(gates.shape, dtype=outputs.dtype, device=gates.device)  # of what the gates are bent from
        dh, dc = torch.zeros_like(memory[0]), torch.zeros_like(memory[0])
        for t in reversed(range(steps)):
            write, forget, candidate, output = gates[t].chunk(4, 1)
            dh = dh + gradient[:, t]
            through = dh * output
            dc = dc + through - through * bent[t] * bent[t]
            before[t, :, :hidden] = dc * candidate * (write - write * write)
            before[t, :, hidden : 2 * hidden] = dc * memory[t] * (forget - forget * forget)
            before[t, :, 2 * hidden : 3 * hidden] = dc * write * (1 - candidate * candidate)
            before[t, :, 3 * hidden :] = dh * bent[t] * (output - output * output)
            dc = dc * forget
            dh = transposed(before[t]).to(dc.dtype)
        of_weight = product(before.view(-1, 4 * hidden).t(), outputs[:-1].reshape(-1, hidden)).to(weight.dtype)
        return before.transpose(0, 1), of_weight, dh, dc, None
