"""The fused network computes what the library's own computes, up to rounding."""

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline.accel import fused_convolution
from pipeline.accel.fused_convolution import PackedConvolution, fuse_convolutions

CPU = torch.device("cpu")


def slow(name, layer):
    return pytest.param(name, layer, 96, marks=pytest.mark.slow)


NETWORKS = [
    slow("alexnet", "features"),
    ("resnet18", "layer4", 128),
    slow("vgg11", "classifier.4"),
    slow("efficientnet_b0", "features"),
    slow("convnext_tiny", "features"),
    slow("regnet_y_400mf", "trunk_output"),
    ("mobilenet_v3_small", "features", 128),
    slow("swin_t", "features"),
    slow("vit_b_32", "encoder.ln"),
    slow("densenet121", "features"),
    ("shufflenet_v2_x0_5", "conv5", 128),
    ("squeezenet1_1", "features", 128),
    slow("googlenet", "inception5b"),
]


def network(name, layer):
    torch.manual_seed(3)
    options = {"googlenet": {"init_weights": False}, "vit_b_32": {"image_size": 96}}
    model = models.get_model(name, weights=None, **options.get(name, {})).eval()
    for module in model.modules():
        # Statistics like those of trained networks: with the initial ones, deep signals vanish.
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.uniform_(-0.2, 0.5)
            module.running_var.uniform_(0.05, 0.3)
    return create_feature_extractor(model, {layer: "layer"}, suppress_diff_warning=True).eval()


def cosine(first, second):
    return torch.cosine_similarity(first.flatten().double(), second.flatten().double(), 0).item()


@pytest.mark.parametrize(("name", "layer", "size"), NETWORKS)
@torch.inference_mode()
def test_every_family_computes_the_same_features(name, layer, size):
    plain = network(name, layer)
    image = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last) * 4 - 2
    expected = plain(image)["layer"]
    again = fuse_convolutions(plain, size, torch.float32, CPU)(image)["layer"]
    assert again.shape == expected.shape
    assert cosine(expected, again) > 1 - 1e-7
    half = fuse_convolutions(plain, size, torch.bfloat16, CPU)(image.bfloat16())["layer"].float()
    assert (
        cosine(expected, half) > 0.97
    )  # invented statistics amplify rounding; with trained weights it is above 0.9999


def test_the_convolutions_of_a_resnet_are_packed_with_what_follows_them():
    if not fused_convolution._can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    graph = fuse_convolutions(network("resnet18", "layer4"), 64, torch.float32, CPU)
    kinds = [type(graph.get_submodule(str(layer.target))) for layer in graph.graph.nodes if layer.op == "call_module"]
    assert set(kinds) == {PackedConvolution, nn.MaxPool2d}
    assert not [layer for layer in graph.graph.nodes if layer.op == "call_function"]


@torch.inference_mode()
def test_without_onednn_the_network_runs_unpacked(monkeypatch):
    plain = network("resnet18", "layer4")
    image = torch.rand(1, 3, 64, 64)
    monkeypatch.setattr(fused_convolution, "_can_pack", lambda dtype: False)
    assert cosine(plain(image)["layer"], fuse_convolutions(plain, 64, torch.float32, CPU)(image)["layer"]) > 1 - 1e-7


@torch.inference_mode()
def test_a_network_that_cannot_be_traced_runs_unchanged():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return {"layer": self.convolution(images) if images.sum() > 0 else images}

    image = torch.rand(1, 3, 16, 16)
    plain = Branching().eval()
    assert cosine(plain(image)["layer"], fuse_convolutions(plain, 16, torch.float32, CPU)(image)["layer"]) > 1 - 1e-7


@torch.inference_mode()
def test_a_convolution_that_is_called_twice_keeps_both_batch_norms():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, images):
            return self.second(self.convolution(self.first(self.convolution(images))))

    plain = Shared().eval()
    plain.first.running_mean.fill_(0.5)
    plain.second.running_var.fill_(0.25)
    image = torch.rand(1, 3, 16, 16)
    assert torch.allclose(fuse_convolutions(plain, 16, torch.float32, CPU)(image), plain(image), atol=1e-5)


def test_the_original_network_is_not_changed():
    plain = network("resnet18", "layer4")
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    fuse_convolutions(plain, 64, torch.bfloat16, CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_resnet", 64), ("test_efficientnet", 64), ("tf_efficientnet_lite0", 65), ("tf_efficientnet_lite0", 64)],
)
@torch.inference_mode()
def test_timms_combined_layers_are_fused(name, size):
    import timm

    from pipeline.encoders.timm import cut_timm_model

    torch.manual_seed(3)
    plain = cut_timm_model(timm.create_model(name), "features", name)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.2)
    image = torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last) * 4 - 2
    graph = fuse_convolutions(plain, size, torch.float32, CPU)
    assert cosine(plain(image), graph(image)) > 1 - 1e-7
    used = [graph.get_submodule(str(layer.target)) for layer in graph.graph.nodes if layer.op == "call_module"]
    assert not [layer for layer in used if isinstance(layer, nn.BatchNorm2d | nn.Identity)]
    if fused_convolution._can_pack(torch.float32):
        assert not [layer for layer in used if isinstance(layer, nn.Conv2d)]
