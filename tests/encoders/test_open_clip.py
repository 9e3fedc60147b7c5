"""open_clip's image towers as encoders: vision transformers, ResNets and timm's networks."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import small_encoder

from pipeline.encoders.encoder import restore_encoder
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, ParamsError

open_clip = pytest.importorskip("open_clip", reason="needs the extra: pip install -e '.[open_clip]'")
CPU = torch.device("cpu")
TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
TOWERS = {
    "tiny-transformer": {"image_size": 64, "layers": 3, "width": 64, "patch_size": 16},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "tiny-timm": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160},
    "tiny-coca": {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
}


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory):
    """Small models in open_clip's list."""
    folder = tmp_path_factory.mktemp("models")
    for name, vision in TOWERS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}))
    before = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


def encoder(name="tiny-transformer", *, layer="features", weights="none", image_size="auto", **params):
    return small_encoder(name, layer, source="open_clip", weights=str(weights), image_size=image_size, **params)


def whole_model(name):
    """A model with both towers, as a checkpoint holds it."""
    torch.manual_seed(8)
    return open_clip.create_model(name, load_weights=False).eval()


def pixels(made, count=1):
    side = made.spec.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a model as training programs do, and returns the model and the file."""

    def save(name):
        model = whole_model(name)
        path = tmp_path / f"{name}.pt"
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
        return model.visual, path

    return save


@pytest.mark.parametrize(("name", "channels"), [("tiny-transformer", 64), ("tiny-resnet", 256), ("tiny-timm", 64)])
@torch.inference_mode()
def test_features_are_the_towers_last_map(checkpoint, name, channels):
    tower, path = checkpoint(name)
    made = encoder(name, weights=path)
    side = made.spec.preprocessing.size
    images = torch.randn(2, 3, side, side)
    found = made.network(images)
    assert found.shape[:2] == (2, channels)
    if name == "tiny-transformer":
        tokens = tower.ln_post(tower.transformer(tower._embeds(images)))[:, 1:]  # without the class token
        expected = tokens.transpose(1, 2).reshape(found.shape)
    elif name == "tiny-resnet":
        expected = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
    else:
        expected = tower.trunk.forward_features(images)[:, 1:].transpose(1, 2).reshape(found.shape)
    assert torch.allclose(found, expected, atol=1e-5)
    assert made.spec.weights == "file"


@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_pooled_is_the_vector_that_is_compared_with_texts(checkpoint, name):
    tower, path = checkpoint(name)
    made = encoder(name, layer="pooled", grid=1, weights=path)
    side = made.spec.preprocessing.size
    images = torch.randn(2, 3, side, side)
    expected = tower(images)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert torch.allclose(made.network(images), expected, atol=1e-5)
    assert made.encode(pixels(made)).shape == (1, 1, 16)


@torch.inference_mode()
def test_an_inner_layer_has_no_weights_after_it(checkpoint):
    tower, path = checkpoint("tiny-transformer")
    made = encoder(layer="transformer.resblocks.1", weights=path)
    images = torch.randn(1, 3, 64, 64)
    tokens = tower.transformer.resblocks[1](tower.transformer.resblocks[0](tower._embeds(images)))[:, 1:]
    assert torch.allclose(made.network(images), tokens.transpose(1, 2).reshape(1, 64, 4, 4), atol=1e-5)
    names = made.network.state_dict().keys()
    assert not [name for name in names if "resblocks.2" in name or "ln_post" in name or name.endswith("proj")]
    names = encoder("tiny-resnet", layer="layer2").network.state_dict().keys()
    assert not [name for name in names if "layer3" in name or "attnpool" in name]


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("image_size", ["auto", 128])
def test_a_restored_encoder_computes_the_same_features(name, image_size):
    made = encoder(name, image_size=image_size)
    assert made.regions == 4
    again = restore_encoder(EncoderSpec.from_json(made.spec.to_json()), made.tensors_to_embed(), CPU)
    assert again.encode(pixels(made, 2)).tobytes() == made.encode(pixels(made, 2)).tobytes()
    assert "open_clip" in made.engine


@torch.inference_mode()
def test_position_embeddings_are_interpolated_to_another_input_size(checkpoint):
    tower, path = checkpoint("tiny-transformer")
    made = encoder(image_size=128, weights=path)
    found = made.network.state_dict()["model.positional_embedding"]
    assert torch.equal(found[0], tower.positional_embedding[0])  # the class token's
    assert torch.allclose(found[1:].mean(0), tower.positional_embedding[1:].mean(0), atol=0.05)
    assert len(found) == 1 + 8 * 8


def test_a_margin_narrower_than_a_patch_is_refused():
    with pytest.raises(
        ParamsError, match=r"tiny-transformer does not accept 60, which is no multiple of .* set it to 48"
    ):
        encoder(image_size=60)


def test_the_text_tower_is_neither_built_nor_embedded():
    names = encoder("tiny-transformer").tensors_to_embed().keys()
    assert names
    assert not [name for name in names if "token_embedding" in name or "text" in name]


def test_random_weights_select_a_fine_map():
    assert encoder("tiny-resnet", layer="auto").spec.layer == "layer2"
    assert encoder("tiny-transformer", layer="auto").spec.layer == "features"


def test_preprocessing_is_that_of_the_published_weights():
    openai = encoder("ViT-S-32-alt", fit="crop").spec.preprocessing
    assert (openai.size, openai.shorter_side, openai.interpolation) == (224, 224, "bicubic")
    assert openai.mean == open_clip.OPENAI_DATASET_MEAN
    siglip = open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")
    assert siglip["resize_mode"] == "squash"


def test_an_unknown_model_is_refused_with_suggestions():
    with pytest.raises(ParamsError, match=r"open_clip has no model 'ViT-B-17'; did you mean ViT-B-16"):
        encoder("ViT-B-17")


def test_an_unknown_layer_is_refused_with_the_choices():
    with pytest.raises(ParamsError, match=r"no layer 'layer5'; did you mean .* known: features, pooled, stem, layer1"):
        encoder("tiny-resnet", layer="layer5")


def test_unknown_weights_are_refused_with_the_choices():
    with pytest.raises(ParamsError, match=r"must be one of \{openai, .*laion2b_s34b_b79k.*\} for ViT-B-32, a file"):
        encoder("ViT-B-32", weights="laion")
    with pytest.raises(ParamsError, match=r"other.pth: no such file"):
        encoder(weights="other.pth")


def test_weights_with_another_activation_are_refused_with_the_models_name():
    with pytest.raises(ParamsError, match=r"openai was trained with another activation; .* ViT-B-32-quickgelu"):
        encoder("ViT-B-32", weights="openai")


def test_weights_that_cannot_be_downloaded_raise_an_error_with_a_remedy(monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("no connection")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(ParamsError, match=r"laion2b_e16 of ViT-B-32 cannot be downloaded: no connection; .* its path"):
        encoder("ViT-B-32", weights="laion2b_e16")
    spec = replace(encoder("tiny-transformer").spec, name="ViT-B-32", weights="laion2b_e16")
    with pytest.raises(ArtefactError, match=r"cannot be downloaded.* --self-contained"):
        restore_encoder(spec, None, CPU)


@pytest.fixture
def publish(monkeypatch, checkpoint):
    """Publishes a model with the weights `ours`, and returns its tower."""

    def publish(name):
        tower, path = checkpoint(name)
        published = {"url": "https://example.org/tiny.pt", "mean": (0.4, 0.5, 0.6), "resize_mode": "squash"}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"ours": published})
        monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: str(path))
        monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(path))
        return tower

    return publish


@pytest.mark.parametrize(
    ("name", "image_size", "interpolated"),
    [
        ("tiny-transformer", 64, False),
        ("tiny-transformer", 128, True),
        ("tiny-timm", 160, False),
        ("tiny-timm", 128, True),
        ("tiny-resnet", 128, False),
    ],
)
def test_published_weights_are_embedded_if_another_input_size_interpolates_them(
    publish, name, image_size, interpolated
):
    publish(name)
    made = encoder(name, weights="ours", image_size=image_size)
    tensors = made.tensors_to_embed()
    assert bool(tensors) == interpolated
    assert restore_encoder(made.spec, tensors, CPU).spec == made.spec


def test_published_weights_are_loaded_through_open_clip(publish):
    tower = publish("tiny-transformer")
    made = encoder(weights="ours", fit="crop")
    assert torch.equal(made.network.state_dict()["model.conv1.weight"], tower.conv1.weight)
    assert (made.spec.weights, made.spec.preprocessing.mean) == ("ours", (0.4, 0.5, 0.6))
    assert made.spec.preprocessing.shorter_side is None
    assert made.tensors_to_embed() == {}
    assert restore_encoder(made.spec, None, CPU).encode(pixels(made)).tobytes() == made.encode(pixels(made)).tobytes()


def test_without_open_clip_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.encoders.open_clip", raising=False)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ParamsError, match=r"source open_clip needs open_clip.*pip install -e '\.\[open_clip\]'"):
        encoder()
