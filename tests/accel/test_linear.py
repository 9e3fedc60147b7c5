"""The products, the unrolled recurrence and the dropout give what torch's own give."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.accel import linear as products
from pipeline.accel.dropout import Dropout
from pipeline.accel.linear import Linear, Product, product
from pipeline.accel.lstm import unroll

HALF = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="needs a processor with bfloat16",
)


def pair(inputs=160, outputs=192, bias=True):
    torch.manual_seed(0)
    ours = Linear(inputs, outputs, bias)
    usual = nn.Linear(inputs, outputs, bias)
    usual.load_state_dict(ours.state_dict())
    return ours, usual


@pytest.fixture(params=["with oneDNN", "without"])
def there(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(products, "_there", lambda: False)
    elif not products._there():
        pytest.skip("this build of torch has no oneDNN")


@pytest.mark.parametrize("shape", [(7,), (3, 5), (1,), (0,), (2, 1, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_gradients_are_torchs(there, shape, bias):
    ours, usual = pair(bias=bias)
    left = torch.randn(*shape, 160)
    with torch.no_grad():
        torch.testing.assert_close(ours(left), usual(left))
    gradients = []
    for layer in (ours, usual):
        given = left.clone().requires_grad_()
        output = layer(given)
        (output * torch.linspace(-1, 1, 192)).sum().backward()
        gradients.append([output.detach(), given.grad, *(one.grad for one in layer.parameters())])
    torch.testing.assert_close(*gradients)


def test_products_of_any_layout_are_torchs(there):
    torch.manual_seed(0)
    left, right = torch.randn(190, 140).t(), torch.randn(130, 190).t()
    torch.testing.assert_close(product(left, right), left @ right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Product(right.t(), rows=9)(left), left @ right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["step", "load", "copy", "lerp"])
def test_weights_that_changed_are_seen(change):
    ours, usual = pair()
    left = torch.randn(4, 160)
    with torch.no_grad():
        before = ours(left)
    other = Linear(160, 192)
    if change == "step":
        optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, fused=True)
        ours(left).sum().backward()
        optimizer.step()
    elif change == "load":
        ours.load_state_dict(other.state_dict())
    else:
        with torch.no_grad():
            if change == "copy":
                ours.weight.copy_(other.weight)
            else:
                torch._foreach_lerp_(list(ours.parameters()), list(other.parameters()), 0.5)
    usual.load_state_dict(ours.state_dict())
    with torch.no_grad():
        after = ours(left)
        torch.testing.assert_close(after, usual(left))
    assert not torch.equal(before, after)


def test_a_copy_has_weights_of_its_own():
    ours, _ = pair()
    left = torch.randn(4, 160)
    with torch.no_grad():
        expected = ours(left)
        copied = copy.deepcopy(ours)
        copied.weight.zero_()
        torch.testing.assert_close(copied(left), copied.bias.expand(4, -1))
        assert torch.equal(ours(left), expected)


@HALF
def test_autocast_computes_in_half_precision_like_torch():
    ours, usual = pair()
    left = torch.randn(4, 160)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(left), usual(left)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert ours(left).dtype == torch.float32


def step_by_step(read, weight, h, c):
    states = []
    for gates in read.unbind(1):
        write, forget, candidate, output = (gates + functional.linear(h, weight)).chunk(4, -1)
        c = forget.sigmoid() * c + write.sigmoid() * candidate.tanh()
        h = output.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, 1)


def sequence(batch, steps, hidden, dtype=torch.float32):
    torch.manual_seed(0)
    sizes = ((batch, steps, 4 * hidden), (4 * hidden, hidden), (batch, hidden), (batch, hidden))
    return [(torch.randn(*size, dtype=dtype) * 0.3).requires_grad_() for size in sizes]


def test_the_derivative_written_out_is_the_derivative():
    assert torch.autograd.gradcheck(unroll, sequence(2, 3, 2, torch.float64))


@pytest.mark.parametrize("sizes", [(3, 5, 72), (1, 1, 72), (4, 2, 3)])
def test_the_unrolled_recurrence_is_the_step_by_step_one(there, sizes):
    found = []
    for way in (unroll, step_by_step):
        inputs = sequence(*sizes)
        states = way(*inputs)
        (states * torch.linspace(-1, 1, sizes[2])).sum().backward()
        found.append([states.detach(), *(one.grad for one in inputs)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@HALF
def test_the_recurrence_in_half_precision_is_near():
    found = []
    for half in (False, True):
        inputs = sequence(3, 5, 72)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = unroll(*inputs)
        states.float().sum().backward()
        found.append([states.float().detach(), *(one.grad for one in inputs)])
    for full, near in zip(*found, strict=True):
        assert near.dtype == torch.float32
        assert float((full - near).norm() / full.norm()) < 0.02


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(3)
    values = torch.ones(200, 301, requires_grad=True)
    dropout = Dropout(0.3)
    output = dropout(values)
    dropped = (output == 0).float().mean()
    assert abs(float(dropped) - 0.3) < 0.01  # five standard deviations
    torch.testing.assert_close(output[output != 0].unique(), torch.tensor([1 / 0.7]))
    output.sum().backward()
    assert torch.equal(values.grad, output.detach())
    columns = (output == 0).float().mean(0)  # each column 200 draws
    assert float(columns.min()) > 0.1
    assert float(columns.max()) < 0.5
    torch.manual_seed(3)
    assert torch.equal(dropout(values), output)
    assert not torch.equal(dropout(values), output)
    assert torch.equal(dropout.eval()(values), values)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(share):
    assert float(Dropout(share)(torch.ones(50)).sum()) == 50 * (1 - share)
