"""The encoder inside a model file as the weights of another encoder."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support import small_encoder

from pipeline import Captioner, paths
from pipeline.encoders.spec import METADATA_KEY
from pipeline.errors import ArtefactError, ParamsError


@pytest.fixture
def file(trained_project):
    """A model file with AlexNet at 64 pixels, whose random weights are inside."""
    return trained_project / paths.MODEL


def encoder(weights, **given):
    return small_encoder(**{"weights": str(weights), "grid": 3, "image_size": "auto", "seed": 5} | given)


def changed(file, path, change):
    """A copy of a model file in which `change` was applied to the tensors."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def test_the_encoder_of_a_model_file_gives_the_features_of_the_model(file):
    trained = Captioner.load(file, device="cpu").encoder
    again = encoder(file, precision=trained.spec.precision)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert again.encode(pixels).tobytes() == trained.encode(pixels).tobytes()
    assert again.spec.differences(trained.spec) == ["weights: file (model), random:17 (features)"]
    assert again.tensors_to_embed().keys() == trained.network.state_dict().keys()


def test_the_starter_is_named(file, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", file)
    assert encoder("starter").spec == encoder(file).spec
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", tmp_path / "none")
    with pytest.raises(ArtefactError, match="this installation has no starter model"):
        encoder("starter")


def test_grid_size_and_fit_may_be_others_than_the_models(file):
    spec = encoder(file, grid=2, image_size=80, fit="crop").spec
    assert (spec.grid, spec.preprocessing.size, spec.preprocessing.shorter_side) == (2, 80, 80)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "vgg11"}, "encoder.name: vgg11 is not that of .*set .*source to torchvision and .*name to alexnet"),
        ({"layer": "features.0"}, r"encoder.layer: .* has the weights up to features\.\d+; set it to auto, got"),
    ],
)
def test_another_network_or_layer_is_refused_with_that_of_the_model(file, given, words):
    with pytest.raises(ParamsError, match=words):
        encoder(file, **given)


def test_a_size_that_the_weights_do_not_fit_is_refused(file, tmp_path):
    made = encoder("none", name="test_vit", source="timm", layer="features", image_size=64)
    header = {METADATA_KEY: json.dumps({"spec": made.spec.to_json()})}
    tensors = {f"encoder.{name}": tensor for name, tensor in made.network.state_dict().items()}
    save_file(tensors, tmp_path / "vit.safetensors", header)
    given = {"name": "test_vit", "source": "timm"}
    assert encoder(tmp_path / "vit.safetensors", **given).spec.preprocessing.size == 64
    with pytest.raises(ParamsError, match=r"encoder.image_size: the weights in .* at 96 pixels: .*; set it to 64"):
        encoder(tmp_path / "vit.safetensors", image_size=96, **given)


def test_a_model_without_encoder_weights_is_refused(file, tmp_path):
    def remove(tensors):
        for name in [name for name in tensors if name.startswith("encoder.")]:
            del tensors[name]

    with pytest.raises(ParamsError, match="has no encoder weights inside: it uses random:17 of torchvision"):
        encoder(changed(file, tmp_path / "m.safetensors", remove))


def test_damaged_encoder_weights_are_refused(file, tmp_path):
    def damage(tensors):
        next(tensor for name, tensor in tensors.items() if name.startswith("encoder.")).add_(1)

    with pytest.raises(ParamsError, match="damaged: the encoder's tensors do not match their sha256"):
        encoder(changed(file, tmp_path / "m.safetensors", damage))


def test_metadata_of_another_version_are_refused(tmp_path):
    save_file({"encoder.x": torch.zeros(1)}, tmp_path / "m.safetensors", {METADATA_KEY: '{"spec": "{}"}'})
    with pytest.raises(ParamsError, match="not a model file of this version: the encoder spec has schema None"):
        encoder(tmp_path / "m.safetensors")


def test_a_state_dict_is_no_model_file(file, tmp_path):
    trained = Captioner.load(file, device="cpu").encoder
    save_file(trained.network.state_dict(), tmp_path / "weights.safetensors")
    spec = encoder(tmp_path / "weights.safetensors", layer=trained.spec.layer, image_size=64).spec
    assert spec.weights_sha256 == trained.spec.weights_sha256
