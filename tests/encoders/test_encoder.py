"""The frozen encoder: any network at any layer, and equal bits for equal images."""

import zipfile
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import small_encoder

from pipeline.device import single_threaded
from pipeline.encoders.encoder import restore_encoder
from pipeline.encoders.registry import get_source
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, NumericError, ParamsError

CPU = torch.device("cpu")


def encoder(name="squeezenet1_1", layer="auto", grid=3, image_size=64, **params):
    return small_encoder(name, layer, grid, image_size=image_size, **params)


def pixels(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "layer", "grid", "size", "channels"),
    [
        ("resnet18", "layer4", 2, 64, 512),
        ("vgg11", "classifier.4", 1, "auto", 4096),
        ("efficientnet_b0", "features", 2, 64, 1280),
        pytest.param("convnext_tiny", "features", 2, 64, 768, marks=pytest.mark.slow),
        ("regnet_x_400mf", "trunk_output", 2, 64, 400),
        ("mobilenet_v2", "features", 2, 64, 1280),
        ("swin_t", "features", 2, 64, 768),  # (B, H, W, C)
        pytest.param("vit_b_16", "encoder.ln", 7, "auto", 768, marks=pytest.mark.slow),  # (B, T, C)
        pytest.param("densenet121", "auto", 2, 64, 512, marks=pytest.mark.slow),
    ],
)
def test_every_family_gives_regions_by_channels(name, layer, grid, size, channels):
    made = encoder(name, layer, grid, size)
    assert (made.regions, made.channels) == (grid * grid, channels)
    assert made.encode(pixels(1, made.spec.preprocessing.size)).shape == (1, grid * grid, channels)


def test_maps_with_channels_last_and_tokens_become_maps_with_channels_first():
    to_map = get_source("torchvision").feature_map
    image = torch.rand(2, 5, 3, 3)  # (B, C, H, W)
    class_token = torch.rand(2, 1, 5)
    tokens = torch.cat([class_token, image.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(to_map(image, "features"), image)
    assert torch.equal(to_map(image.permute(0, 2, 3, 1), "features"), image)
    assert torch.equal(to_map(tokens, "encoder.ln"), image)


def test_an_unknown_layer_is_refused_with_suggestions():
    with pytest.raises(ParamsError, match=r"resnet18 has no layer 'layer5'; did you mean .*layer4.* known: conv1, bn1"):
        encoder("resnet18", "layer5")


def test_an_unknown_network_is_refused_with_suggestions():
    with pytest.raises(ParamsError, match="no classification model 'resnet20'; did you mean"):
        encoder("resnet20")


def test_unknown_weights_are_refused_with_the_choices():
    with pytest.raises(ParamsError, match=r"must be one of \{DEFAULT, IMAGENET1K_V1\} for resnet18"):
        encoder("resnet18", weights="IMAGENET21K")


def test_a_weights_file_without_a_state_dict_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(ParamsError, match=r"weights.pth holds more than weights, or something else"):
        encoder(weights=str(tmp_path / "weights.pth"))
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(
        ParamsError, match=r"not a state dict of squeezenet1_1: it has fc.weight, not features.0.weight"
    ):
        encoder(weights=str(tmp_path / "weights.pth"))
    (tmp_path / "weights.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ParamsError, match=r"weights.pth: a Git LFS pointer, not the file itself; run `git lfs pull`"):
        encoder(weights=str(tmp_path / "weights.pth"))
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("weights/constants.pkl", b"")
    with pytest.raises(ParamsError, match=r"weights.pth is a TorchScript program; save its weights alone: torch.save"):
        encoder(weights=str(tmp_path / "weights.pth"))
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(ParamsError, match=r"weights.h5: Keras weights are not read"):
        encoder(weights=str(tmp_path / "weights.h5"))
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ParamsError, match=r"weights.pth cannot be read: it is empty or truncated"):
        encoder(weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ParamsError, match=r"other.pth: no such file"):
        encoder(weights=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    "classifier",
    [{}, {"classifier.1.weight": torch.zeros(9, 512, 1, 1), "classifier.1.bias": torch.zeros(9)}],
    ids=["without classifier", "other classes"],
)
def test_weights_files_need_no_classifier_of_the_same_classes(tmp_path, classifier):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(5)
    content = squeezenet1_1(weights=None).state_dict()
    kept = {key: value for key, value in content.items() if not key.startswith("classifier.1")}
    torch.save(kept | classifier, tmp_path / "own.pth")
    made = encoder(weights=str(tmp_path / "own.pth"))
    assert torch.equal(made.network.state_dict()["features.0.weight"], content["features.0.weight"])
    with pytest.raises(ParamsError, match=r"lacks 2 of the weights .* up to classifier.1 needs.*classifier.1"):
        encoder(weights=str(tmp_path / "own.pth"), layer="classifier.1")


def test_a_weights_file_may_have_a_prefix_and_no_classifier_and_be_a_part_of_a_checkpoint(tmp_path):
    from torchvision.models import vgg11

    features = {f"model.{key}": value for key, value in vgg11().state_dict().items() if key.startswith("features")}
    torch.save({"model": {"state_dict": features}}, tmp_path / "own.pth")
    made = encoder("vgg11", grid=2, weights=str(tmp_path / "own.pth"))
    assert torch.equal(made.network.state_dict()["features.0.weight"], features["model.features.0.weight"])


def test_a_weights_file_of_a_deeper_network_is_refused(tmp_path):
    from torchvision.models import resnet34, vgg11

    torch.save({"model": resnet34().state_dict()}, tmp_path / "deep.pth")
    with pytest.raises(ParamsError, match=r"deep.pth is of a deeper network than resnet18, which has no layer1.2"):
        encoder("resnet18", "layer4", 2, weights=str(tmp_path / "deep.pth"))
    assert encoder("resnet34", "layer4", 2, weights=str(tmp_path / "deep.pth")).channels == 512
    own = vgg11().state_dict() | {"classifier.8.weight": torch.zeros(3, 3)}  # a longer classifier changes no feature
    torch.save(own, tmp_path / "own.pth")
    assert encoder("vgg11", grid=2, weights=str(tmp_path / "own.pth")).spec.weights == "file"


def test_a_safetensors_file_of_any_name_is_read(tmp_path):
    from torchvision.models import squeezenet1_1

    content = squeezenet1_1().state_dict()
    save_file(content, tmp_path / "own.pth")
    made = encoder(weights=str(tmp_path / "own.pth"))
    assert torch.equal(made.network.state_dict()["features.0.weight"], content["features.0.weight"])


@pytest.fixture
def small_transformers(monkeypatch):
    """torchvision's vision transformers with one narrow layer; their published weights are random."""
    from torchvision.models import _api, vision_transformer

    whole = vision_transformer.VisionTransformer

    def small(*, image_size, patch_size, **_):
        return whole(image_size, patch_size, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)

    monkeypatch.setattr(vision_transformer, "VisionTransformer", small)

    def download(weights, **_):
        torch.manual_seed(3)
        return small(image_size=weights.meta["min_size"][0], patch_size=14).state_dict()

    monkeypatch.setattr(_api.WeightsEnum, "get_state_dict", download)


@pytest.mark.parametrize(("weights", "size"), [("DEFAULT", 518), ("IMAGENET1K_SWAG_LINEAR_V1", 224)])
def test_a_vision_transformer_of_torchvision_has_the_size_of_its_published_weights(small_transformers, weights, size):
    made = encoder("vit_h_14", weights=weights, image_size="auto")
    assert made.spec.preprocessing.size == size
    assert made.map_size == (size // 14, size // 14)
    assert made.tensors_to_embed() == {}
    for tensors in (None, made.network.state_dict()):
        again = restore_encoder(made.spec, tensors, CPU)
        assert again.encode(pixels(1, size)).tobytes() == made.encode(pixels(1, size)).tobytes()
    with pytest.raises(ParamsError, match=rf"encoder.image_size: vit_h_14 with {weights} accepts {size} only, got 280"):
        encoder("vit_h_14", weights=weights, image_size=280)


def test_other_weights_of_a_vision_transformer_of_torchvision_have_the_given_size(small_transformers, tmp_path):
    made = encoder("vit_h_14", image_size=280)
    assert made.map_size == (20, 20)
    assert restore_encoder(made.spec, made.tensors_to_embed(), CPU).map_size == (20, 20)
    assert encoder("vit_h_14", image_size="auto").spec.preprocessing.size == 224
    with pytest.raises(ParamsError, match=r"params.encoder.image_size: vit_h_14 does not accept 225: .*indivisible"):
        encoder("vit_h_14", image_size=225)
    content = {key.removeprefix("model."): value for key, value in made.network.state_dict().items()}
    torch.save(content, tmp_path / "own.pth")
    assert encoder("vit_h_14", weights=str(tmp_path / "own.pth"), image_size=280).map_size == (20, 20)
    with pytest.raises(ParamsError, match=r"or has them in another shape: encoder.pos_embedding"):
        encoder("vit_h_14", weights=str(tmp_path / "own.pth"), image_size="auto")


@pytest.mark.parametrize("shape", [(1, 7, 7, 7), (1, 8, 512), (1, 2, 3, 4, 5)])
def test_outputs_that_are_no_feature_map_are_refused(shape):
    with pytest.raises(ParamsError, match=r"params.encoder.layer: blocks outputs"):
        get_source("torchvision").feature_map(torch.zeros(shape), "blocks")


def test_a_vector_has_one_region():
    with pytest.raises(ParamsError, match="outputs one vector; must be 1, got 3"):
        encoder("alexnet", "classifier.4", 3, "auto")


def test_a_grid_larger_than_the_map_is_refused_with_the_size_of_the_map():
    assert encoder("alexnet", "features", 1, 64).map_size == (1, 1)
    expected = (
        r"params.encoder.grid: must be at most 1, got 2: features of alexnet outputs a map of 1 x 1 for images of 64 "
        r"pixels; lower it, or raise params.encoder.image_size"
    )
    with pytest.raises(ParamsError, match=expected):
        encoder("alexnet", "features", 2, 64)


def test_a_model_file_with_a_grid_larger_than_the_map_stays_readable():
    made = encoder("alexnet", "features", 1, 64)
    again = restore_encoder(replace(made.spec, grid=2), made.tensors_to_embed(), CPU)
    features = again.encode(pixels(1, 64))
    assert (features == made.encode(pixels(1, 64))).all()  # repeated


def test_the_spec_states_whether_truncated_jpegs_are_filled():
    skip, fill = encoder(), encoder(truncated_jpegs="fill")
    assert "fill_truncated" not in skip.spec.to_json()
    assert fill.spec.preprocessing.fill_truncated
    assert fill.spec.digest != skip.spec.digest
    assert EncoderSpec.from_json(fill.spec.to_json()) == fill.spec


def test_random_weights_depend_on_the_seed_only():
    torch.manual_seed(99)
    first = encoder(seed=5).spec
    assert first == encoder(seed=5).spec
    assert first.weights_sha256 != encoder(seed=6).spec.weights_sha256


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "resnet18", "mobilenet_v2", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_features_do_not_depend_on_the_batch(name):
    made = encoder(name)
    batch = pixels(9, 64)
    with single_threaded():
        together = made.encode(batch)
        alone = np.concatenate([made.encode(batch[place : place + 1]) for place in range(9)])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "regnet_y_400mf", pytest.param("maxvit_t", marks=pytest.mark.slow)],
)
def test_a_restored_encoder_computes_the_same_features(name):
    side = 224 if name == "maxvit_t" else 64
    made = encoder(name, image_size=side)
    again = restore_encoder(EncoderSpec.from_json(made.spec.to_json()), made.tensors_to_embed(), CPU)
    assert again.encode(pixels(2, side)).tobytes() == made.encode(pixels(2, side)).tobytes()


def test_other_weights_are_refused_by_digest():
    made, other = encoder(seed=1), encoder(seed=2)
    with pytest.raises(ArtefactError, match=made.spec.weights_sha256[:12]):
        restore_encoder(made.spec, other.tensors_to_embed(), CPU)


def test_weights_of_another_network_are_refused_by_name():
    made = encoder()
    tensors = dict(made.tensors_to_embed())
    tensors.pop(next(iter(tensors)))
    with pytest.raises(ArtefactError, match="not those of"):
        restore_encoder(made.spec, tensors, CPU)


@pytest.mark.parametrize("failure", [URLError("no route"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_raise_an_error_with_a_remedy(monkeypatch, failure):
    def fetch(*_, **__):
        raise failure

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    with pytest.raises(
        ParamsError, match=r"params.encoder.weights: DEFAULT of squeezenet1_1 cannot be downloaded .* its path"
    ):
        encoder(weights="DEFAULT")
    spec = replace(encoder().spec, weights="IMAGENET1K_V1")
    with pytest.raises(ArtefactError, match=r"cannot be downloaded .* --self-contained"):
        restore_encoder(spec, None, CPU)


def test_pretrained_weights_select_the_size_they_were_trained_at(shared):
    path = str(shared / "weights" / "mobilenet_v2-imagenet.pth")
    made = encoder("mobilenet_v2", image_size="auto", grid=7, weights=path)
    assert (made.spec.weights, made.spec.layer, made.spec.preprocessing.size) == ("file", "features", 224)
    assert (made.regions, made.channels) == (49, 1280)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """A ReLU would turn them into zeros, and every feature would be 0."""
    from torchvision.models import alexnet

    weights = alexnet(weights=None).state_dict()
    weights["features.0.weight"][0] = torch.nan
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(NumericError, match=r"weights\.pth holds values that are not finite; give other weights"):
        encoder("alexnet", weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("values", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_features_that_are_not_finite_are_refused(values):
    made = encoder()
    features = np.full((2, made.regions, made.channels), -65504, np.float16)
    assert made.check_finite(features) is features
    assert len(made.check_finite(features[:0])) == 0
    features[1, 0, : len(values)] = values
    with pytest.raises(NumericError, match="outputs values beyond float16's range; choose another layer"):
        made.check_finite(features)
