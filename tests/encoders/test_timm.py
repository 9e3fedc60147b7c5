"""timm's networks as encoders: any family as a map with channels first, at any layer and input size."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support import small_encoder

from pipeline.encoders.encoder import restore_encoder
from pipeline.encoders.images import crop_box
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, ParamsError

CPU = torch.device("cpu")


def encoder(name, *, layer="features", weights="none", **params):
    return small_encoder(name, layer, source="timm", weights=str(weights), **params)


def timms_own(name, size=64):
    """The network that timm builds from the encoder's seed."""
    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    if hasattr(model, "set_input_size"):
        model.set_input_size((size, size))
    return model


def pixels(made, count=1):
    side = made.spec.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("test_resnet", 0),
        ("test_efficientnet", 0),  # has a convolution after the last block
        ("test_convnext", 0),
        ("test_vit", 1),  # a class token
        pytest.param("swin_tiny_patch4_window7_224", "channels last", marks=pytest.mark.slow),
        pytest.param("vit_small_patch14_reg4_dinov2", 5, marks=pytest.mark.slow),  # a class and four register tokens
        pytest.param("vit_small_patch16_dinov3", 5, marks=pytest.mark.slow),  # positions are rotations
        pytest.param("vit_base_patch16_siglip_224", 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:Using a non-tuple sequence:UserWarning"
)  # timm resizes Swin's relative positions so
@torch.inference_mode()
def test_features_are_timms_own_as_a_map_without_class_and_register_tokens(name, prefix):
    size = 70 if "patch14" in name else 64
    images = torch.randn(2, 3, size, size)
    found = encoder(name, image_size=size).network(images)  # (B, C, H, W)
    expected = timms_own(name, size).forward_features(images)
    if prefix == "channels last":
        expected = expected.permute(0, 3, 1, 2)
    elif expected.dim() == 3:  # (B, P + T, C)
        expected = expected[:, prefix:].transpose(1, 2).reshape(found.shape)
    assert torch.allclose(found, expected, atol=1e-5)


@torch.inference_mode()
def test_pooled_is_the_vector_before_the_classifier():
    images = torch.randn(2, 3, 64, 64)
    for name in ("test_resnet", "test_efficientnet", "test_vit"):
        made = encoder(name, layer="pooled", grid=1)
        own = timms_own(name)
        expected = own.forward_head(own.forward_features(images), pre_logits=True)
        assert torch.allclose(made.network(images), expected, atol=1e-5)
        assert made.encode(pixels(made)).shape == (1, 1, expected.shape[1])


@torch.inference_mode()
def test_an_inner_layer_is_the_output_of_that_module_without_the_weights_after_it():
    made = encoder("test_vit", layer="blocks.2")
    own = timms_own("test_vit")
    images = torch.randn(2, 3, 64, 64)
    kept = []
    own.blocks[2].register_forward_hook(lambda module, args, output: kept.append(output))
    own(images)
    expected = kept[0][:, 1:].transpose(1, 2).reshape(2, -1, 4, 4)
    assert torch.allclose(made.network(images), expected, atol=1e-5)
    names = made.network.state_dict().keys()
    assert not [name for name in names if "blocks.3" in name or "norm.weight" in name or "head" in name]


def test_an_unknown_layer_is_refused_with_the_choices():
    with pytest.raises(ParamsError, match=r"no layer 'blocks.12'; did you mean .* known: features, pooled, blocks.0"):
        encoder("test_vit", layer="blocks.12")


def test_an_unknown_network_is_refused_with_suggestions():
    with pytest.raises(ParamsError, match=r"timm has no model 'resnet500'; did you mean .*resnet50"):
        encoder("resnet500")


def test_a_name_with_its_weights_is_refused_with_the_two_parameters():
    with pytest.raises(ParamsError, match=r"set name to resnet50 and params.encoder.weights to a1_in1k"):
        encoder("resnet50.a1_in1k")


def test_unknown_weights_are_refused_with_the_choices():
    with pytest.raises(ParamsError, match=r"must be one of \{DEFAULT, .*a1_in1k.*\} for resnet50, a file, or none"):
        encoder("resnet50", weights="in22k")
    with pytest.raises(ParamsError, match=r"other.pth: no such file"):
        encoder("test_resnet", weights="other.pth")


def test_an_impossible_input_size_is_refused():
    with pytest.raises(ParamsError, match=r"params.encoder.image_size: test_vit does not accept 60"):
        encoder("test_vit", image_size=60)
    patches = r"deit_tiny_patch16_224 does not accept 110, .* no multiple of its patches of 16 pixels; set it to 96"
    with pytest.raises(ParamsError, match=patches):
        encoder("deit_tiny_patch16_224", image_size=110)
    with pytest.raises(ParamsError, match=r"params.encoder.image_size: levit_128s does not accept 100"):
        encoder("levit_128s", image_size=100)


def test_a_network_without_a_map_after_its_norm_is_refused():
    with pytest.raises(ParamsError, match=r"params.encoder.layer: hiera_tiny_224 has no map after its last norm; name"):
        encoder("hiera_tiny_224")


def test_random_weights_select_a_fine_map_and_their_size():
    assert encoder("test_resnet", layer="auto", image_size="auto").spec.layer == "layer2"
    transformer = encoder("test_vit", layer="auto", image_size="auto").spec
    assert (transformer.layer, transformer.preprocessing.size) == ("features", 160)


def test_preprocessing_is_the_models_own(monkeypatch):
    cropped = encoder(
        "test_resnet", image_size="auto", fit="crop"
    ).spec.preprocessing  # trained at 160, 95% of the side
    assert (cropped.size, cropped.shorter_side, cropped.interpolation) == (112, 118, "bilinear")
    assert (cropped.mean, cropped.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    config = timm.data.resolve_data_config({}, model=timms_own("test_resnet")) | {"crop_mode": "squash"}
    monkeypatch.setattr(timm.data, "resolve_data_config", lambda *_, **__: config)
    assert encoder("test_resnet", fit="crop").spec.preprocessing.shorter_side is None


def test_a_crop_larger_than_the_image_is_the_square_of_its_shorter_side(monkeypatch):
    config = timm.data.resolve_data_config({}, model=timms_own("test_resnet")) | {"crop_pct": 1.15}  # as volo_d4_448
    monkeypatch.setattr(timm.data, "resolve_data_config", lambda *_, **__: config)
    made = encoder("test_resnet", fit="crop").spec.preprocessing
    assert crop_box(made, 640, 480) == (80, 0, 560, 480)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_a_restored_encoder_computes_the_same_features(name):
    made = encoder(name, image_size=96)
    again = restore_encoder(EncoderSpec.from_json(made.spec.to_json()), made.tensors_to_embed(), CPU)
    assert again.encode(pixels(made, 2)).tobytes() == made.encode(pixels(made, 2)).tobytes()
    assert "timm" in made.engine


@pytest.mark.parametrize(
    "wrap",
    [
        lambda content: content,
        lambda content: {"state_dict": {f"module.{key}": value for key, value in content.items()}},
        lambda content: {"state_dict": {f"model.{key}": value for key, value in content.items()}, "epoch": 3},
        lambda content: {"model": {}, "model_ema": content},
        lambda content: {f"_orig_mod.{key}": value.half() for key, value in content.items()},
    ],
    ids=["plain", "distributed", "a part of a larger module", "moving average", "compiled, half precision"],
)
def test_weights_files_are_read_as_training_programs_save_them(tmp_path, wrap):
    content = timms_own("test_resnet", 160).state_dict()
    torch.save(wrap(content), tmp_path / "own.pth")
    made = encoder("test_resnet", weights=tmp_path / "own.pth")
    assert torch.allclose(made.network.state_dict()["model.conv1.0.weight"], content["conv1.0.weight"], atol=1e-3)
    assert made.spec.weights == "file"
    assert made.tensors_to_embed().keys() == made.network.state_dict().keys()


def test_a_file_with_a_prefix_needs_no_counters(tmp_path):
    content = timms_own("test_resnet", 160).state_dict()
    kept = {f"backbone.{key}": value for key, value in content.items() if "num_batches_tracked" not in key}
    torch.save(kept, tmp_path / "own.pth")
    made = encoder("test_resnet", weights=tmp_path / "own.pth")
    assert torch.equal(made.network.state_dict()["model.conv1.0.weight"], content["conv1.0.weight"])


def test_a_file_with_two_networks_is_refused(tmp_path):
    content = timms_own("test_resnet", 160).state_dict()
    two = {f"{prefix}.{key}": value + number for number, prefix in enumerate("qk") for key, value in content.items()}
    torch.save({"state_dict": two}, tmp_path / "own.pth")
    with pytest.raises(ParamsError, match=r"holds several networks that fit: k\., q\.; save the state dict of one"):
        encoder("test_resnet", weights=tmp_path / "own.pth")
    torch.save({"state_dict": content | two}, tmp_path / "own.pth")  # the network itself, beside others
    made = encoder("test_resnet", weights=tmp_path / "own.pth")
    assert torch.equal(made.network.state_dict()["model.conv1.0.weight"], content["conv1.0.weight"])


def test_a_file_without_a_weight_that_the_layer_needs_is_refused(tmp_path):
    content = timms_own("test_vit", 160).state_dict()
    last = "blocks.5.mlp.fc2.bias"
    save_file({key: value for key, value in content.items() if key != last}, tmp_path / "own.safetensors")
    assert encoder("test_vit", layer="blocks.1", weights=tmp_path / "own.safetensors").spec.layer == "blocks.1"
    with pytest.raises(ParamsError, match=rf"lacks 1 of the weights that test_vit up to features needs.*{last}"):
        encoder("test_vit", weights=tmp_path / "own.safetensors")


@torch.inference_mode()
def test_a_file_for_another_input_size_is_interpolated(tmp_path):
    larger = timms_own("test_vit", 192)
    save_file(larger.state_dict(), tmp_path / "own.safetensors")
    made = encoder("test_vit", image_size=192, weights=tmp_path / "own.safetensors")
    images = torch.randn(1, 3, 192, 192)
    expected = larger.forward_features(images)[:, 1:].mean(1)
    assert torch.cosine_similarity(made.network(images).mean((2, 3)), expected) > 0.99


@pytest.fixture
def asked(monkeypatch):
    """Downloads of published weights, which are random; returns the networks that timm was asked for."""
    create = timm.create_model
    asked = []

    def downloading(name, pretrained=False, **options):
        asked.append((name, pretrained))
        torch.manual_seed(4)
        return create(name.partition(".")[0], pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", downloading)
    return asked


def test_published_weights_are_named_by_their_tag_and_not_embedded(asked):
    made = encoder("test_resnet", weights="DEFAULT")
    assert ("test_resnet.r160_in1k", True) in asked
    assert made.spec.weights == "r160_in1k"
    assert made.tensors_to_embed() == {}
    assert restore_encoder(made.spec, None, CPU).encode(pixels(made)).tobytes() == made.encode(pixels(made)).tobytes()


def test_published_weights_are_embedded_if_another_input_size_interpolates_them(asked):
    assert encoder("test_vit", weights="DEFAULT", image_size=160).tensors_to_embed() == {}
    made = encoder("test_vit", weights="DEFAULT", image_size=96)
    assert made.spec.weights == "r160_in1k"
    before = len(asked)
    again = restore_encoder(made.spec, made.tensors_to_embed(), CPU)
    assert again.encode(pixels(made)).tobytes() == made.encode(pixels(made)).tobytes()
    assert ("test_vit.r160_in1k", True) not in asked[before:]


def test_weights_that_cannot_be_downloaded_raise_an_error_with_a_remedy(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise FileNotFoundError("no connection")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ParamsError, match=r"r160_in1k of test_resnet cannot be downloaded: no connection; .* its path"):
        encoder("test_resnet", weights="r160_in1k")
    spec = replace(encoder("test_resnet").spec, weights="r160_in1k")
    with pytest.raises(ArtefactError, match=r"cannot be downloaded.* --self-contained"):
        restore_encoder(spec, None, CPU)


@torch.inference_mode()
def test_trained_weights_give_timms_own_features(shared):
    path = shared / "weights" / "tf_efficientnet_lite2-timm.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path}")
    made = encoder("tf_efficientnet_lite2", image_size=225, grid=8, weights=path)
    assert (made.regions, made.channels, made.spec.preprocessing.mean) == (64, 1280, (0.5, 0.5, 0.5))
    own = timm.create_model("tf_efficientnet_lite2").eval()
    own.load_state_dict(load_file(path), strict=False)
    images = pixels(made)
    expected = own.forward_features((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)  # (1, C, 8, 8)
    assert np.allclose(made.encode(images), expected.flatten(2).transpose(1, 2), atol=4e-3)
