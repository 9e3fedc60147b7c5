"""What the decoders that look at regions share: the regions, soft attention over them, and its derivative.

Shapes: see protocol.py; A attention.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.autograd.function import once_differentiable

from pipeline.accel.linear import Linear, computed_in
from pipeline.decoders.decoder import Decoder, DecoderConfig, State

Sight = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The context (B K, H) and the weights (B K, R) that a look from h (B K, H) gives."""

TOGETHER = 1 << 16
"""So many pairs of region and attention are computed together: what they need stays in the processor's cache."""


class AttentionDecoder(Decoder):
    """A decoder that looks before each word. Its state begins with `values` and `keys`, and ends with the weights."""

    def __init__(self, sizes: DecoderConfig, said_from: int) -> None:
        super().__init__(sizes, said_from)
        self.regions = Regions(sizes)
        self.look = AdditiveAttention(hidden=sizes.hidden, attention=sizes.attention)

    @abstractmethod
    def after_looking(self, state: State, read: Tensor, look: Sight) -> tuple[Tensor, State]:
        """`advance`, with a way to look."""

    def advance(self, state: State, read: Tensor) -> tuple[Tensor, State]:
        values, keys = state.picture[:2]
        return self.after_looking(state, read, lambda h: self.look(values, keys, h))

    def advancing(self, state: State) -> Callable[[State, Tensor], tuple[Tensor, State]]:
        look = self.look.often(*state.picture[:2])
        return lambda state, read: self.after_looking(state, read, look)

    def attention_weights(self, state: State) -> Tensor | None:
        return state.beam[-1]


class Regions(nn.Module):
    """Standardised features (B, R, C) as vectors of the decoder's width, each with a learned vector of its place.

    The place is ours, not the papers': "left of" cannot be told without it.
    """

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__()
        self.project = Linear(sizes.channels, sizes.hidden)
        self.place = nn.Parameter(torch.zeros(sizes.regions, sizes.hidden))
        nn.init.normal_(self.place, std=0.5)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.project(features) + self.place)


class AdditiveAttention(nn.Module):
    """Soft attention: how much of each region goes into the context.

    K. Xu et al., "Show, Attend and Tell", ICML 2015, equations 4-6, with additive scores as D. Bahdanau et al., 2015:
    w tanh(key + query), which is 2 w / (1 + exp(-2 key) exp(-2 query)) less a constant that the softmax does not see.
    So nothing is bent per pair of region and query: a tenth of the time.
    """

    def __init__(self, *, hidden: int, attention: int) -> None:
        super().__init__()
        self.key = Linear(hidden, attention)
        self.query = Linear(hidden, attention, bias=False)
        self.score = Linear(attention, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """exp(-2 key) of each region (B, R, A), for regions `values` (B, R, H)."""
        return _bent(self.key(values))

    def forward(self, values: Tensor, keys: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The context (B K, H) and the weights (B K, R), for regions `values` (B, R, H), `keys` (B, R, A) and h."""
        query = _bent(self.query(h)).unflatten(0, (values.shape[0], -1)).unsqueeze(2)  # (B, K, 1, A)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or values.device.type != "cpu":
            pairs = (1 + keys.unsqueeze(1) * query).reciprocal()  # (B, K, R, A)
            scores = self.score(pairs).squeeze(-1)
        else:
            scores = torch.stack([self._scores(*pair) for pair in zip(keys, query, strict=True)])
        weights = (2 * scores).float().softmax(-1).to(values.dtype)  # (B, K, R)
        return torch.bmm(weights, values).flatten(0, 1), weights.flatten(0, 1)

    def _scores(self, keys: Tensor, query: Tensor) -> Tensor:
        """(K, R) of one picture's `keys` (R, A) and `query` (K, 1, A): its pairs stay in the processor's cache."""
        pairs = torch.mul(keys, query).add_(1).reciprocal_()
        scores = torch.mv(pairs.flatten(0, 1), self.score.weight[0])
        return scores.view(pairs.shape[:2])

    def often(self, values: Tensor, keys: Tensor) -> Sight:
        """The same for many looks at the same regions, one beam each, which learn together on a processor."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or values.device.type != "cpu":
            return lambda h: self(values, keys, h)
        seen = _Seen(values.detach().to(computed_in(values)), keys.detach(), self.score.weight[0])
        taught = _Taught.apply(values, keys, self.score.weight, seen)
        return lambda h: _Glance.apply(_bent(self.query(h)), taught, seen)


def _bent(values: Tensor) -> Tensor:
    """exp(-2 x); beyond 40, where tanh has long been 1, held, so that a product of two is never 0 times infinity."""
    return (-2 * values.float()).clamp(-80, 80).exp()


@dataclass
class _Seen:
    """The regions of a batch, and what the backward pass of each look leaves for their derivatives."""

    values: Tensor  # (B, R, H), bfloat16 under autocast
    keys: Tensor  # (B, R, A)
    score: Tensor  # (A,)
    weights: list[Tensor] = field(default_factory=list)  # (B, R) of each look
    of_contexts: list[Tensor] = field(default_factory=list)  # (B, H)
    of_keys: Tensor | None = None
    of_score: Tensor | None = None

    def forget(self) -> None:
        """What a backward pass has left."""
        self.weights, self.of_contexts, self.of_keys, self.of_score = [], [], None, None

    def pieces(self) -> range:
        """Where each group of pictures begins whose pairs are computed together."""
        return range(0, len(self.keys), self.step)

    @property
    def step(self) -> int:
        return max(1, TOGETHER // self.keys[0].numel())

    def pairs(self, first: int, query: Tensor) -> Tensor:
        """1 / (1 + key query) of a group's regions, (b, R, A)."""
        group = slice(first, first + self.step)
        return torch.mul(self.keys[group], query[group].unsqueeze(1)).add_(1).reciprocal_()


class _Taught(torch.autograd.Function):
    """Stands for the regions in the graph: its backward pass comes after that of the last look, and is theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, keys: Tensor, score: Tensor, seen: _Seen) -> Tensor:
        ctx.seen, ctx.dtype = seen, values.dtype
        return values.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        seen: _Seen = ctx.seen
        assert seen.of_keys is not None
        assert seen.of_score is not None
        weights, of_contexts = torch.stack(seen.weights, 2), torch.stack(seen.of_contexts, 1)  # (B, R, T), (B, T, H)
        of_values = torch.bmm(weights.to(of_contexts.dtype), of_contexts).to(ctx.dtype)
        return of_values, seen.of_keys, seen.of_score.unsqueeze(0), None


class _Glance(torch.autograd.Function):
    """One look, by bent queries (B, A): context (B, H) and weights (B, R), through which nothing is learnt.

    Of the pairs of region and query nothing is kept: computing them again is cheaper than reading them from memory.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, taught: Tensor, seen: _Seen) -> tuple[Tensor, Tensor]:
        found = [torch.mv(seen.pairs(first, query).flatten(0, 1), seen.score) for first in seen.pieces()]
        weights = (2 * torch.cat(found)).view(seen.keys.shape[:2]).softmax(-1)
        ctx.save_for_backward(query, weights)
        ctx.seen = seen
        ctx.mark_non_differentiable(weights)
        return torch.bmm(weights.to(seen.values.dtype).unsqueeze(1), seen.values).squeeze(1), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_context: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, weights = ctx.saved_tensors
        seen: _Seen = ctx.seen
        of_weights = torch.bmm(seen.values, of_context.unsqueeze(2)).squeeze(2).to(weights.dtype)
        of_scores = 2 * weights * (of_weights - (of_weights * weights).sum(1, keepdim=True))  # (B, R)
        if seen.of_keys is None or seen.of_score is None:
            seen.of_keys, seen.of_score = torch.zeros_like(seen.keys), torch.zeros_like(seen.score)
            Variable._execution_engine.queue_callback(seen.forget)  # after this pass, whether or not it was a whole one
        through, of_query = -seen.score * query, torch.empty_like(query)
        for first in seen.pieces():
            group = slice(first, first + seen.step)
            pairs, of_group = seen.pairs(first, query), of_scores[group]
            seen.of_score += torch.mv(pairs.flatten(0, 1).t(), of_group.flatten())
            pairs.square_().mul_(of_group.unsqueeze(2))  # of the scores by 1 + key query, but for -score
            seen.of_keys[group].addcmul_(pairs, through[group].unsqueeze(1))
            torch.sum(pairs.mul_(seen.keys[group]), 1, out=of_query[group])
        of_query *= -seen.score
        seen.weights.append(weights)
        seen.of_contexts.append(of_context)
        return of_query, of_query.new_zeros(()), None
