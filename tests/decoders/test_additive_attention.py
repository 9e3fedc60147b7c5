"""Many looks at the same regions learn what autograd would teach one by one."""

import gc
import weakref

import pytest
import torch

from pipeline.decoders import additive_attention as looking
from pipeline.decoders.additive_attention import AdditiveAttention

B, R, H, A, T = 5, 6, 7, 8, 4


@pytest.fixture
def look():
    torch.manual_seed(0)
    return AdditiveAttention(hidden=H, attention=A)


def learnt(look, sight_of, values, steps):
    """Contexts and gradients after a recurrence in which each look depends on the one before."""
    values = values.clone().requires_grad_()
    steps = steps.clone().requires_grad_()
    look.zero_grad()
    sight, h, contexts = sight_of(values, look.keys(values)), steps[0], []
    for step in steps:
        context, _ = sight(h)
        h = torch.tanh(step + context)
        contexts.append(context)
    weights = torch.linspace(-1, 1, contexts[0].numel()).view_as(contexts[0])
    sum((context * weights).sum() for context in contexts).backward()
    return [*contexts, values.grad, steps.grad, *(part.grad.clone() for part in look.parameters())]


def one_by_one(look):
    return lambda values, keys: lambda h: look(values, keys, h)


@pytest.mark.parametrize("together", [1, 2 * R * A, 1 << 16])
def test_the_derivative_is_that_of_autograd(look, together, monkeypatch):
    monkeypatch.setattr(looking, "TOGETHER", together)
    values, steps = torch.randn(B, R, H), torch.randn(T, B, H)
    expected = learnt(look, one_by_one(look), values, steps)
    for ours, theirs in zip(learnt(look, look.often, values, steps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("queries_alone", [False, True])
def test_a_backward_pass_leaves_nothing_for_the_next_one(look, queries_alone):
    values = torch.randn(B, R, H, requires_grad=True)
    sight = look.often(values, look.keys(values))
    total = sum(sight(h)[0].square().sum() for h in torch.randn(T, B, H))
    learning = [values, *look.parameters()]
    first = torch.autograd.grad(total, learning, retain_graph=True)
    if queries_alone:  # a part of the graph, without the regions
        torch.autograd.grad(total, [look.query.weight], retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(total, learning), strict=True):
        assert torch.equal(one, other)


def test_under_autocast_it_is_near(look):
    values, steps = torch.randn(B, R, H), torch.randn(T, B, H)
    expected = learnt(look, one_by_one(look), values, steps)
    with torch.autocast("cpu", torch.bfloat16):
        found = learnt(look, look.often, values, steps)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.cosine_similarity(ours.float().flatten(), theirs.flatten(), 0) > 0.998


def test_what_a_batch_needed_is_freed_with_it(look):
    values = torch.randn(B, R, H, requires_grad=True)
    keys = look.keys(values)
    gc.disable()
    try:
        sight = look.often(values, keys)
        context, _ = sight(torch.randn(B, H))
        kept = weakref.ref(context.grad_fn.seen)
        context.sum().backward()
        del sight, context
        assert kept() is None
    finally:
        gc.enable()
