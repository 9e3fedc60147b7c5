"""The kernels for GPUs compute what the plain form does. `test_fused_kernels.py` runs this file.

Without a GPU, Triton's interpreter runs the kernels (TRITON_INTERPRET=1).
"""

import copy

import pytest
import torch

from pipeline.accel.decoders import _use_kernels
from pipeline.accel.fused_attention import MAX_PLACES, TILE_VALUES, FusedAdditiveAttention, _blocks
from pipeline.accel.fused_lstm import FusedLSTMCell
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.lstm import LSTMCell
from pipeline.decoders.registry import make_decoder
from pipeline.decoders.search import SearchOptions
from pipeline.decoders.soft_attention import AdditiveAttention
from pipeline.training.weight_averaging import exponential_moving_average

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ("attention", "updown")
V, R, C = 30, 9, 24


@pytest.fixture(autouse=True)
def exact():
    torch.manual_seed(0)


def pair(kind, *, padded=False):
    """A plain decoder and one with kernels."""
    options = {"kind": kind, "embed": 12, "hidden": 20, "attention": 18}
    plain = make_decoder(options, vocabulary=V, regions=R, channels=C, padded=padded).to(DEVICE)
    for parameter in plain.parameters():
        parameter.data.mul_(2)
    fused = copy.deepcopy(plain)
    _use_kernels(fused, DEVICE)
    assert {type(module) for module in fused.modules()} >= {FusedAdditiveAttention, FusedLSTMCell}
    return plain, fused


def inputs():
    return torch.randn(5, R, C).to(DEVICE), torch.randint(1, V, (5, 4)).to(DEVICE)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_are_those_of_the_plain_form(kind, padded):
    features, tokens = inputs()
    if padded:
        features[1:, 5:] = 0
        features[3] = 0  # no region at all
    found = []
    for decoder in pair(kind, padded=padded):
        logits = decoder.eval()(features, tokens)
        logits.square().mean().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in decoder.parameters())])
    for fused, plain in zip(*reversed(found), strict=True):
        close(fused, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_bytes_again_and_after_another_forward_pass(kind):
    _, decoder = pair(kind)
    features, tokens = inputs()
    found = []
    for _ in range(2):
        decoder.zero_grad()
        loss = decoder.eval()(features, tokens).square().mean()
        decoder(features.flip(0), tokens)  # has gradients of its own
        loss.backward()
        found.append([parameter.grad.clone() for parameter in decoder.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_gradients_of_two_passes_add_up():
    plain, fused = pair("attention")
    batches = [inputs(), inputs()]
    for decoder in (plain, fused):
        sum(decoder.eval()(*batch).square().mean() for batch in batches).backward()
    for one, two in zip(fused.parameters(), plain.parameters(), strict=True):
        close(one.grad, two.grad)


def test_a_second_backward_pass_has_the_same_gradients():
    _, decoder = pair("attention")
    loss = decoder.eval()(*inputs()).square().mean()
    parameters = list(decoder.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_inputs_need_not_be_contiguous():
    plain = AdditiveAttention(hidden=8, attention=6).to(DEVICE)
    values, h = torch.randn(2, 8, 5).to(DEVICE), torch.randn(8, 2).to(DEVICE)
    real = torch.tensor([[True, True], [True, False], [True, True], [False, True], [True, True]]).to(DEVICE)
    found = []
    for attention in (FusedAdditiveAttention(plain), plain):
        grad_values, grad_h = (tensor.clone().requires_grad_() for tensor in (values, h))
        regions = grad_values.transpose(1, 2)
        context, _ = attention(regions, attention.project_keys(regions), grad_h.t(), real.t())
        context.square().sum().backward()
        found.append([context.detach(), grad_values.grad, grad_h.grad])
    for one, two in zip(*found, strict=True):
        close(one, two)


@pytest.mark.parametrize(("regions", "hidden", "attention"), [(1024, 2, 2), (1024, 64, 64), (49, 512, 512), (1, 4, 4)])
def test_tables_of_a_kernel_have_a_limit(regions, hidden, attention):
    blocks = _blocks(torch.empty(1, regions, hidden), torch.empty(1, regions, attention), None)
    for tile, width in ((blocks["H_TILE"], blocks["H_BLOCK"]), (blocks["A_TILE"], blocks["A_BLOCK"])):
        assert 1 <= tile <= blocks["R_BLOCK"]
        assert tile * blocks["R_BLOCK"] <= MAX_PLACES
        assert tile * width <= TILE_VALUES


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_as_close_as_its_precision(kind):
    found = []
    batch = inputs()
    for decoder in pair(kind):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = decoder.eval()(*batch).float()
        logits.square().mean().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in decoder.parameters())])
    for fused, plain in zip(*reversed(found), strict=True):
        assert fused.dtype == plain.dtype
        assert (fused - plain).norm() <= 0.05 * plain.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_search_finds_the_same_captions(kind):
    features, _ = inputs()
    plain, fused = (beam_search(decoder, features, SearchOptions(3, 6)) for decoder in pair(kind))
    for one, other in zip(fused, plain, strict=True):
        assert one[0].tokens == other[0].tokens
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)


def test_sizes_that_fill_no_block_and_several():
    plain = AdditiveAttention(hidden=130, attention=70).to(DEVICE)
    fused = FusedAdditiveAttention(plain)
    values, h = torch.randn(2, 70, 130).to(DEVICE), torch.randn(2, 130).to(DEVICE)
    found = []
    for attention in (fused, plain):
        grad_values, grad_h = (tensor.clone().requires_grad_() for tensor in (values, h))
        context, weights = attention(grad_values, attention.project_keys(grad_values), grad_h)
        context.square().sum().backward()
        found.append([context.detach(), weights.detach(), grad_values.grad, grad_h.grad])
    for one, two in zip(*found, strict=True):
        close(one, two)
    cells = torch.randn(3, 4 * 300).to(DEVICE), torch.randn(3, 300).to(DEVICE)
    for one, two in zip(FusedLSTMCell()(*cells), LSTMCell()(*cells), strict=True):
        close(one, two)


def test_beams_with_gradients_and_more_regions_than_fit_are_computed_in_the_plain_form(monkeypatch):
    plain = AdditiveAttention(hidden=8, attention=8).to(DEVICE)
    fused = FusedAdditiveAttention(plain)
    values = torch.randn(2, 5, 8).to(DEVICE)
    beams = torch.randn(6, 8).to(DEVICE)
    for one, two in zip(*(one(values, one.project_keys(values), beams) for one in (fused, plain)), strict=True):
        assert torch.equal(one, two)
    monkeypatch.setattr("pipeline.accel.fused_attention.MAX_REGIONS", 4)
    for one, two in zip(*(one(values, one.project_keys(values), beams[:2]) for one in (fused, plain)), strict=True):
        assert torch.equal(one, two)


def test_a_first_use_changes_neither_random_numbers_nor_gradients():
    plain, _ = pair("attention")
    before = torch.get_rng_state()
    _use_kernels(plain, DEVICE)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_copies_and_names():
    plain, fused = pair("updown")
    assert list(fused.state_dict()) == list(plain.state_dict())
    average = exponential_moving_average(fused, 0.5)
    average.update_parameters(fused)
    features, tokens = inputs()
    close(average.module.eval()(features, tokens), plain.eval()(features, tokens))
