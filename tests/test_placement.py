"""Tensors of one computation are on one device, checked without a GPU: fake tensors have a device but no values."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.training.batches import Batch
from pipeline.training.losses import CaptionLoss

GPU = torch.device("cuda", 0)


@pytest.fixture
def fake_tensors():
    """Tensors without values, by default on a GPU; mixing devices raises an error."""
    with FakeTensorMode(), torch.device(GPU), torch.backends.cudnn.flags(enabled=False):
        yield


def test_mixing_devices_raises_an_error(fake_tensors):
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3) + torch.zeros(3, device="cpu")


@pytest.mark.filterwarnings("ignore:Accessing the data pointer:UserWarning")  # nn.LSTM looks for cuDNN's weights
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_and_its_loss_stay_on_the_gpu(fake_tensors, kind):
    params = {"kind": kind, "embed": 24, "hidden": 32}
    params |= dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.2)
    decoder = make_decoder(params, vocabulary=40, regions=9, channels=12).train()
    features = decoder.pool(torch.zeros(6, 9, 12, dtype=torch.float16))
    tokens = torch.ones(4, 7, dtype=torch.long)
    batch = Batch(torch.zeros(4, dtype=torch.long), tokens[:, :-1], tokens[:, 1:], torch.arange(20), tokens=20)
    given = features[batch.images].float()
    loss = CaptionLoss(decoder, label_smoothing=0.1)(given, batch)
    assert loss.device == GPU
    log_probs, state = decoder.eval().step(decoder.start(given), tokens[:, 0])
    assert {part.device for part in (log_probs, *state.image, *state.beam)} == {GPU}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer:UserWarning")
@pytest.mark.parametrize("kind", ["inject", "merge"])
def test_an_lstm_stays_in_float32_on_a_gpu(fake_tensors, kind):
    """Autocast would run it in float16, also where bfloat16 is asked for."""
    decoder = make_decoder({"kind": kind, "embed": 24, "hidden": 32}, vocabulary=40, regions=1, channels=12)
    inputs = torch.zeros(2, 5, 24, dtype=torch.bfloat16)
    outputs, state = decoder.lstm(inputs)
    assert {tensor.dtype for tensor in (outputs, *state)} == {torch.float32}
    outputs, _ = decoder.lstm(inputs, tuple(part.bfloat16() for part in state))
    assert outputs.dtype == torch.float32
