"""The rewritten network gives what torchvision's own gives, but for rounding."""

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline.accel import fused_convolution as fusion
from pipeline.accel.fused_convolution import PackedConvolution, fused

CPU = torch.device("cpu")
NETWORKS = [
    ("alexnet", "features"),
    ("resnet18", "layer4"),
    ("vgg11", "classifier.4"),
    ("efficientnet_b0", "features"),
    ("convnext_tiny", "features"),
    ("regnet_y_400mf", "trunk_output"),
    ("mobilenet_v3_small", "features"),
    ("swin_t", "features"),
    ("vit_b_16", "encoder.ln"),
    ("densenet121", "features"),
    ("shufflenet_v2_x0_5", "conv5"),
    ("squeezenet1_1", "features"),
    ("googlenet", "inception5b"),
]


def network(name, layer):
    torch.manual_seed(3)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = models.get_model(name, weights=None, **options).eval()
    for module in model.modules():  # statistics as training leaves them: with the initial ones deep signals vanish
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.uniform_(-0.2, 0.5)
            module.running_var.uniform_(0.05, 0.3)
    return create_feature_extractor(model, {layer: "layer"}, suppress_diff_warning=True).eval()


def cosine(first, second):
    return torch.cosine_similarity(first.flatten().double(), second.flatten().double(), 0).item()


@pytest.mark.parametrize(("name", "layer"), NETWORKS)
@torch.inference_mode()
def test_every_family_gives_the_same_features(name, layer):
    plain = network(name, layer)
    picture = torch.rand(1, 3, 224, 224).contiguous(memory_format=torch.channels_last) * 4 - 2
    expected = plain(picture)["layer"]
    again = fused(plain, 224, torch.float32, CPU)(picture)["layer"]
    assert again.shape == expected.shape
    assert cosine(expected, again) > 1 - 1e-7
    half = fused(plain, 224, torch.bfloat16, CPU)(picture.bfloat16())["layer"].float()
    assert (
        cosine(expected, half) > 0.97
    )  # the made-up statistics amplify rounding; with real weights it is above 0.9999


def test_the_convolutions_of_a_resnet_are_packed_with_what_follows_them():
    if not fusion._can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    graph = fused(network("resnet18", "layer4"), 64, torch.float32, CPU)
    kinds = [type(graph.get_submodule(str(layer.target))) for layer in graph.graph.nodes if layer.op == "call_module"]
    assert set(kinds) == {PackedConvolution, nn.MaxPool2d}
    assert not [layer for layer in graph.graph.nodes if layer.op == "call_function"]


@torch.inference_mode()
def test_a_torch_without_the_calls_runs_the_network_as_it_is(monkeypatch):
    plain = network("resnet18", "layer4")
    picture = torch.rand(1, 3, 64, 64)
    monkeypatch.setattr(fusion, "_can_pack", lambda dtype: False)
    assert cosine(plain(picture)["layer"], fused(plain, 64, torch.float32, CPU)(picture)["layer"]) > 1 - 1e-7


@torch.inference_mode()
def test_a_network_that_cannot_be_traced_runs_as_it_is():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, pictures):
            return {"layer": self.convolution(pictures) if pictures.sum() > 0 else pictures}

    picture = torch.rand(1, 3, 16, 16)
    plain = Branching().eval()
    assert cosine(plain(picture)["layer"], fused(plain, 16, torch.float32, CPU)(picture)["layer"]) > 1 - 1e-7


def test_the_network_that_was_given_is_not_changed():
    plain = network("resnet18", "layer4")
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    fused(plain, 64, torch.bfloat16, CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())
