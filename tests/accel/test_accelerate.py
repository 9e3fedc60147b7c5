"""An accelerated decoder computes what the plain one does."""

import copy
import warnings

import pytest
import torch

from pipeline.accel import decoders, linear
from pipeline.accel.attention import FastAdditiveAttention
from pipeline.accel.decoders import accelerate
from pipeline.accel.linear import PackedLinear
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.search import SearchOptions
from pipeline.decoders.soft_attention import AdditiveAttention

CPU = torch.device("cpu")
V, R, C = 60, 9, 40
OPERATORS = pytest.mark.skipif(
    not linear.can_pack(torch.empty(1 << 15)), reason="this build of torch has no oneDNN operators"
)
BFLOAT16 = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="needs a processor with bfloat16",
)


def pair(kind, *, padded=False):
    """A plain decoder and an accelerated copy."""
    torch.manual_seed(0)
    options = {"kind": kind, "embed": 64, "hidden": 128}
    plain = make_decoder(options, vocabulary=V, regions=R, channels=C, padded=padded).eval()
    plain.normalize.fit([torch.randn(50, R, C)])
    for parameter in plain.parameters():
        parameter.data.mul_(2)
    return plain, accelerate(copy.deepcopy(plain), CPU)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, R, C, generator=generator), torch.randint(1, V, (6, 5), generator=generator)


@pytest.mark.parametrize("kind", DECODERS)
def test_search_finds_the_same_captions(kind):
    plain, fast = pair(kind)
    features, _ = inputs()
    options = SearchOptions(3, 8)
    for one, other in zip(beam_search(plain, features, options), beam_search(fast, features, options), strict=True):
        assert one[0].tokens == other[0].tokens
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("gradients", [False, True])
def test_logits_in_evaluation_mode_are_the_same(kind, gradients):
    plain, fast = pair(kind)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(fast(*inputs()), plain(*inputs()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_padding_is_masked_as_in_the_plain_form(kind):
    plain, fast = pair(kind, padded=True)
    features, tokens = inputs()
    features[1:, 5:] = 0
    features[3:, 2:] = 0
    torch.testing.assert_close(fast(features, tokens), plain(features, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_parameters_keep_their_names(kind):
    plain, fast = pair(kind)
    assert list(plain.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(plain.state_dict())


def test_other_devices_keep_the_plain_modules():
    decoder = make_decoder({"kind": "attention"}, vocabulary=V, regions=R, channels=C)
    modules = list(decoder.modules())
    assert list(accelerate(decoder, torch.device("mps")).modules()) == modules


@pytest.mark.parametrize("kind", DECODERS)
def test_kernels_that_do_not_run_are_left_out_with_a_warning(kind, monkeypatch):
    def fail(decoder, device):
        raise OSError("no C compiler")

    monkeypatch.setattr(decoders, "_use_kernels", fail)
    decoder = make_decoder({"kind": kind}, vocabulary=V, regions=R, channels=C)
    modules = list(decoder.modules())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert list(accelerate(decoder, torch.device("cuda")).modules()) == modules
    expected = "the decoder runs without its own GPU kernels, which is slower: no C compiler"
    assert [str(one.message) for one in found] == [expected] * (kind in {"attention", "updown"})


def test_large_keys_and_queries_do_not_overflow():
    torch.manual_seed(0)
    plain = AdditiveAttention(hidden=4, attention=4).eval()
    fast = FastAdditiveAttention(plain)
    values, h = 300 * torch.randn(2, 3, 4), -300 * torch.randn(2, 4)
    context, weights = fast(values, fast.project_keys(values), h)
    assert context.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def layers():
    torch.manual_seed(0)
    plain = torch.nn.Linear(160, 192).eval()
    return plain, PackedLinear(copy.deepcopy(plain))


@OPERATORS
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1,), (0,), (2, 1, 4)])
def test_a_packed_layer_is_a_linear_layer(shape):
    plain, packed = layers()
    inputs = torch.randn(*shape, 160)
    with torch.no_grad():
        torch.testing.assert_close(packed(inputs), plain(inputs))


@OPERATORS
@BFLOAT16
def test_a_packed_layer_follows_autocast():
    plain, packed = layers()
    inputs = torch.randn(4, 160)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = packed(inputs), plain(inputs)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        assert packed(inputs).dtype == torch.float32
