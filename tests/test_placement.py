"""On a GPU everything that belongs together is on it: seen without one, on tensors that have a place but no values."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.accel import resampling
from pipeline.decoders import KINDS, make_decoder
from pipeline.encoders.spec import Preprocessing
from pipeline.training.batches import Batch
from pipeline.training.losses import cross_entropy

GPU = torch.device("cuda", 0)


@pytest.fixture
def nowhere():
    """Tensors without values; mixing devices is an error among them as among others."""
    resampling._weights.cache_clear()
    with FakeTensorMode(), torch.device(GPU):
        yield
    resampling._weights.cache_clear()


def test_devices_cannot_be_mixed_here(nowhere):
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3) + torch.zeros(3, device="cpu")


@pytest.mark.parametrize("more", [{}, {"tie_weights": True, "layer_norm": True}], ids=["plain", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_and_its_loss(nowhere, kind, more):
    params = {"kind": kind, "embed": 24, "hidden": 32, "attention": 16, "tie_weights": False, "layer_norm": False}
    params |= dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.2)
    decoder = make_decoder({**params, **more}, vocabulary=40, regions=9, channels=12).train()
    features = decoder.condense(torch.zeros(6, 9, 12, dtype=torch.float16))
    tokens = torch.ones(4, 7, dtype=torch.long)
    batch = Batch(torch.zeros(4, dtype=torch.long), tokens[:, :-1], tokens[:, 1:], torch.arange(20))
    given = features[batch.images].float()
    loss = cross_entropy(decoder, given, batch, label_smoothing=0.1)
    assert loss.device == GPU
    log_probs, state = decoder.eval().step(decoder.start(given), tokens[:, 0])
    assert {part.device for part in (log_probs, *state.picture, *state.beam)} == {GPU}


@pytest.mark.parametrize("shorter_side", [None, 72])
def test_scaling(nowhere, shorter_side):
    how = Preprocessing(64, shorter_side, "bicubic", (0.5,) * 3, (0.2,) * 3, (255,) * 3)
    scaled = resampling.resample(torch.zeros(4, 90, 70, 3, dtype=torch.uint8), how)
    assert (scaled.device, scaled.dtype, scaled.shape) == (GPU, torch.uint8, (4, 64, 64, 3))
