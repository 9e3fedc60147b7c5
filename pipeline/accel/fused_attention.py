"""Additive attention on a GPU: one kernel per step, and one for its gradients, written in Triton.

The plain form reads and writes tensors of B R A values about twenty times per step of training. Here a program per
image and beam computes scores, softmax and weighted sum from one reading of keys and values. The gradients of keys,
values and score weights, which all steps share, are collected over the steps: `_Gradients` says how. Sums have a fixed
order, so results are the same bytes in every run.

Measured with `benchmarks/gpu.py` on an H200: training of the attention decoders is 1.5 times as fast with batches of
1,024, and 1.1 times with 64.

Shapes: B images, K beams per image (1 where gradients are computed), R regions, A width of the attention's hidden
layer, H hidden state, T steps.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.accel.attention import SharedAttention
from pipeline.accel.kernels import launch
from pipeline.decoders.soft_attention import PADDING_SCORE

MAX_WIDTH = 4096
MAX_REGIONS = 1024
"""Sizes up to which the kernels are used; larger decoders compute the plain form."""
TILE_VALUES = 4096
"""Values of keys or region vectors that a program holds at a time."""
MAX_PLACES = 1 << 14
"""Regions of a tile times all regions: the size of the table that puts a tile's scores in their places."""
_PADDING_SCORE = tl.constexpr(PADDING_SCORE)


class FusedAdditiveAttention(SharedAttention):
    """`AdditiveAttention` with the same results and gradients, up to rounding, on a GPU.

    The attention weights have no gradient of their own: no loss uses them.
    """

    def project_keys(self, values: Tensor) -> Tensor:
        keys = super().project_keys(values)
        if not (torch.is_grad_enabled() and keys.requires_grad):
            return keys
        shared: Tensor = _SharedByAllSteps.apply(values, keys, self.score.weight)
        return shared

    def forward(self, values: Tensor, keys: Tensor, h: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if max(values.shape[2], keys.shape[2]) > MAX_WIDTH or keys.shape[1] > MAX_REGIONS:
            return super().forward(values, keys, h, real)
        if not torch.is_grad_enabled():
            return _attend(*map(_contiguous, (values, keys, self.query(h), self.score.weight, real)))
        gradients = getattr(keys.grad_fn, "gradients", None)
        if not isinstance(gradients, _Gradients) or values.shape[0] != h.shape[0]:
            return super().forward(values, keys, h, real)
        found: tuple[Tensor, Tensor] = _Attend.apply(values, keys, self.query(h), self.score.weight, real, gradients)
        return found


@dataclass
class _Gradients:
    """Gradients of what all steps share, collected while the steps' gradients are computed, the last step first.

    Those of the keys are added up in place by each step's kernel. Those of the region vectors are one matrix product
    per image at the end, of the weights (B, R, T) and the gradients of the context (B, T, H) of all steps.
    """

    keys: Tensor | None = None
    """(B, R, A)"""
    score: Tensor | None = None
    """(B, A)"""
    weights: list[Tensor] = field(default_factory=list)
    """T times (B, R)"""
    contexts: list[Tensor] = field(default_factory=list)
    """T times (B, H)"""

    def take(self) -> "_Gradients":
        """What was collected, which is then forgotten."""
        taken = replace(self)
        self.keys = self.score = None
        self.weights, self.contexts = [], []
        return taken


class _SharedByAllSteps(torch.autograd.Function):
    """Returns the keys. Its gradients are those that the steps collected.

    Autograd computes them after those of all steps, which use the keys, although the steps return none for them.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, keys: Tensor, score: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradients = _Gradients()
        ctx.types = values.dtype, keys.dtype, score.dtype
        return keys.view_as(keys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_keys: Tensor | None) -> tuple[Tensor | None, ...]:
        found = ctx.gradients.take()
        if found.keys is None:
            return None, grad_keys, None
        values_type, keys_type, score_type = ctx.types
        weights = torch.stack(found.weights, 2).to(values_type)  # (B, R, T)
        grad_values = torch.bmm(weights, torch.stack(found.contexts, 1).to(values_type))  # (B, R, H)
        grad_steps = found.keys.to(keys_type)
        grad_score = found.score.sum(0, keepdim=True).to(score_type)
        return grad_values, grad_steps if grad_keys is None else grad_steps + grad_keys, grad_score


class _Attend(torch.autograd.Function):
    """One step."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, keys: Tensor, query: Tensor, score: Tensor, real: Tensor | None, gradients: _Gradients
    ) -> tuple[Tensor, Tensor]:
        inputs = tuple(map(_contiguous, (values, keys, query, score, real)))
        context, weights = _attend(*inputs)
        ctx.save_for_backward(*inputs, weights)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(weights)
        return context, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_context: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        values, keys, query, score, real, weights = ctx.saved_tensors
        gradients: _Gradients = ctx.gradients
        batch, _, attention = keys.shape
        if gradients.keys is None or gradients.score is None:
            gradients.keys = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
            gradients.score = torch.zeros(batch, attention, dtype=torch.float32, device=keys.device)
        grad_context = grad_context.contiguous()
        grad_query = torch.empty_like(query)
        launch(
            _attend_backward,
            (batch,),
            values,
            keys,
            query,
            score,
            values if real is None else real,
            weights,
            grad_context,
            grad_query,
            gradients.keys,
            gradients.score,
            **_blocks(values, keys, real),
        )
        gradients.weights.append(weights)
        gradients.contexts.append(grad_context)
        return None, None, grad_query, None, None, None


def _contiguous(tensor: Any) -> Any:
    return None if tensor is None else tensor.contiguous()


def _blocks(values: Tensor, keys: Tensor, real: Tensor | None) -> dict[str, Any]:
    """Constants of the kernels."""
    regions, hidden, attention = keys.shape[1], values.shape[2], keys.shape[2]
    regions_block, hidden_block, attention_block = map(triton.next_power_of_2, (regions, hidden, attention))
    tile = max(1, min(regions_block, MAX_PLACES // regions_block))
    return {
        "R": regions,
        "H": hidden,
        "A": attention,
        "R_BLOCK": regions_block,
        "H_BLOCK": hidden_block,
        "A_BLOCK": attention_block,
        "H_TILE": max(1, min(tile, TILE_VALUES // hidden_block)),
        "A_TILE": max(1, min(tile, TILE_VALUES // attention_block)),
        "PADDED": real is not None,
    }


def _attend(values: Tensor, keys: Tensor, query: Tensor, score: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """The context (B K, H) and the weights (B K, R), for queries (B K, A). All tensors are contiguous."""
    batch, regions, hidden = values.shape
    rows = query.shape[0]
    context = torch.empty(rows, hidden, dtype=values.dtype, device=values.device)
    weights = torch.empty(rows, regions, dtype=torch.float32, device=values.device)
    mask = values if real is None else real
    blocks = _blocks(values, keys, real)
    launch(_attend_forward, (rows,), values, keys, query, score, mask, context, weights, rows // batch, **blocks)
    return context, weights


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _attend_forward(
    values,
    keys,
    queries,
    score,
    real,
    context,
    weights,
    beams,
    R: tl.constexpr,
    H: tl.constexpr,
    A: tl.constexpr,
    H_BLOCK: tl.constexpr,
    A_BLOCK: tl.constexpr,
    R_BLOCK: tl.constexpr,
    H_TILE: tl.constexpr,
    A_TILE: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    image = row // beams
    units = tl.arange(0, A_BLOCK)
    channels = tl.arange(0, H_BLOCK)
    places = tl.arange(0, R_BLOCK)
    query = tl.load(queries + row * A + units, units < A, 0.0).to(tl.float32)
    score_weight = tl.load(score + units, units < A, 0.0).to(tl.float32)

    scores = tl.zeros((R_BLOCK,), tl.float32)
    for start in range(0, R, A_TILE):
        region = start + tl.arange(0, A_TILE)
        inside = (region < R)[:, None] & (units < A)[None, :]
        key = tl.load(keys + (image * R + region)[:, None] * A + units[None, :], inside, 0.0).to(tl.float32)
        of_tile = tl.sum(_tanh(key + query[None, :]) * score_weight[None, :], 1)
        scores += tl.sum(tl.where(region[:, None] == places[None, :], of_tile[:, None], 0.0), 0)
    if PADDED:
        is_real = tl.load(real + image * R + places, places < R, 0) != 0
        scores = tl.where(is_real, scores, _PADDING_SCORE)
    scores = tl.where(places < R, scores, float("-inf"))
    exponentials = tl.exp(scores - tl.max(scores, 0))
    of_regions = exponentials / tl.sum(exponentials, 0)
    tl.store(weights + row * R + places, of_regions, places < R)

    total = tl.zeros((H_BLOCK,), tl.float32)
    for start in range(0, R, H_TILE):
        region = start + tl.arange(0, H_TILE)
        inside = (region < R)[:, None] & (channels < H)[None, :]
        value = tl.load(values + (image * R + region)[:, None] * H + channels[None, :], inside, 0.0)
        weight = tl.sum(tl.where(region[:, None] == places[None, :], of_regions[None, :], 0.0), 1)
        total += tl.sum(value.to(tl.float32) * weight[:, None], 0)
    tl.store(context + row * H + channels, total.to(context.dtype.element_ty), channels < H)


@triton.jit
def _attend_backward(
    values,
    keys,
    queries,
    score,
    real,
    weights,
    grad_context,
    grad_query,
    grad_keys,
    grad_score,
    R: tl.constexpr,
    H: tl.constexpr,
    A: tl.constexpr,
    H_BLOCK: tl.constexpr,
    A_BLOCK: tl.constexpr,
    R_BLOCK: tl.constexpr,
    H_TILE: tl.constexpr,
    A_TILE: tl.constexpr,
    PADDED: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    units = tl.arange(0, A_BLOCK)
    channels = tl.arange(0, H_BLOCK)
    places = tl.arange(0, R_BLOCK)
    gradient = tl.load(grad_context + image * H + channels, channels < H, 0.0).to(tl.float32)
    of_regions = tl.load(weights + image * R + places, places < R, 0.0)

    grad_weights = tl.zeros((R_BLOCK,), tl.float32)
    for start in range(0, R, H_TILE):
        region = start + tl.arange(0, H_TILE)
        inside = (region < R)[:, None] & (channels < H)[None, :]
        value = tl.load(values + (image * R + region)[:, None] * H + channels[None, :], inside, 0.0)
        of_tile = tl.sum(value.to(tl.float32) * gradient[None, :], 1)
        grad_weights += tl.sum(tl.where(region[:, None] == places[None, :], of_tile[:, None], 0.0), 0)
    grad_scores = of_regions * (grad_weights - tl.sum(of_regions * grad_weights, 0))
    if PADDED:
        is_real = tl.load(real + image * R + places, places < R, 0) != 0
        grad_scores = tl.where(is_real, grad_scores, 0.0)

    query = tl.load(queries + image * A + units, units < A, 0.0).to(tl.float32)
    score_weight = tl.load(score + units, units < A, 0.0).to(tl.float32)
    total_query = tl.zeros((A_BLOCK,), tl.float32)
    total_score = tl.load(grad_score + image * A + units, units < A, 0.0)
    for start in range(0, R, A_TILE):
        region = start + tl.arange(0, A_TILE)
        inside = (region < R)[:, None] & (units < A)[None, :]
        place = (image * R + region)[:, None] * A + units[None, :]
        hidden = _tanh(tl.load(keys + place, inside, 0.0).to(tl.float32) + query[None, :])
        of_tile = tl.sum(tl.where(region[:, None] == places[None, :], grad_scores[None, :], 0.0), 1)
        grad_key = of_tile[:, None] * score_weight[None, :] * (1 - hidden * hidden)
        tl.store(grad_keys + place, tl.load(grad_keys + place, inside, 0.0) + grad_key, inside)
        total_query += tl.sum(grad_key, 0)
        total_score += tl.sum(of_tile[:, None] * hidden, 0)
    tl.store(grad_query + image * A + units, total_query.to(grad_query.dtype.element_ty), units < A)
    tl.store(grad_score + image * A + units, total_score, units < A)
