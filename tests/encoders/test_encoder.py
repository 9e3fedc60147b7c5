"""The frozen network: any backbone at any layer, the same bits for the same picture."""

from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pipeline.device import single_threaded
from pipeline.encoders.encoder import build, restore
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, ParamsError

CPU = torch.device("cpu")


def encoder(
    name="alexnet", layer="auto", grid=3, image_size=64, fit="squash", seed=1, weights="none", precision="float32"
):
    return build(
        name=name,
        weights=weights,
        layer=layer,
        grid=grid,
        image_size=image_size,
        fit=fit,
        precision=precision,
        seed=seed,
        device=CPU,
    )


def pixels(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "layer", "grid", "size", "channels"),
    [
        ("resnet18", "layer4", 2, 64, 512),
        ("vgg11", "classifier.4", 1, "auto", 4096),
        ("efficientnet_b0", "features", 2, 64, 1280),
        ("convnext_tiny", "features", 2, 64, 768),
        ("regnet_x_400mf", "trunk_output", 2, 64, 400),
        ("mobilenet_v2", "features", 2, 64, 1280),
        ("swin_t", "features", 2, 64, 768),  # rows, columns, channels
        ("vit_b_16", "encoder.ln", 7, "auto", 768),  # tokens
        ("densenet121", "auto", 2, 64, 512),
    ],
)
def test_every_family_gives_regions_by_channels(name, layer, grid, size, channels):
    made = encoder(name, layer, grid, size)
    assert (made.regions, made.channels) == (grid * grid, channels)
    assert made.encode(pixels(1, made.spec.transform.size)).shape == (1, grid * grid, channels)


def test_channels_last_maps_are_told_from_channels_first_ones():
    made = encoder("swin_t", "features", 2, 64)
    one, other = pixels(2, 64)
    other[:32, :32] = one[:32, :32]  # alike in the first of the four regions alone
    first, second = made.encode(np.stack([one, other])).astype(float)
    distance = np.linalg.norm(first - second, axis=1)
    assert distance[0] < distance[3]


def test_a_wrong_node_lists_the_right_ones():
    with pytest.raises(ParamsError, match=r"resnet18 has no layer 'layer5'; did you mean .*layer4.* known: conv1, bn1"):
        encoder("resnet18", "layer5")


def test_a_wrong_network_suggests_one():
    with pytest.raises(ParamsError, match="no classification model 'resnet20'; did you mean"):
        encoder("resnet20")


def test_wrong_weights_list_what_there_is():
    with pytest.raises(ParamsError, match=r"must be one of \{DEFAULT, IMAGENET1K_V1\} for resnet18"):
        encoder("resnet18", weights="IMAGENET21K")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(ParamsError, match=r"weights.pth holds more than weights, or something else"):
        encoder(weights=str(tmp_path / "weights.pth"))
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(ParamsError, match=r"not a state dict of alexnet: it has fc.weight, not features.0.weight"):
        encoder(weights=str(tmp_path / "weights.pth"))
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ParamsError, match=r"weights.pth cannot be read: it is empty or cut off"):
        encoder(weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ParamsError, match=r"other.pth: no such file"):
        encoder(weights=str(tmp_path / "other.pth"))


def as_trainers_save(content, how):
    return {
        "plain": content,
        "distributed": {f"module.{key}": value for key, value in content.items()},
        "checkpoint": {"epoch": 3, "state_dict": content, "optimizer": {}},
        "other classes": content | {"classifier.6.weight": torch.zeros(10, 4096), "classifier.6.bias": torch.zeros(10)},
        "headless": {key: value for key, value in content.items() if not key.startswith("classifier.6")},
    }[how]


@pytest.mark.parametrize("how", ["plain", "distributed", "checkpoint", "other classes", "headless"])
def test_a_network_of_ones_own_is_read_as_trainers_save_it(tmp_path, how):
    from torchvision.models import alexnet

    torch.manual_seed(5)
    content = alexnet(weights=None).state_dict()
    torch.save(as_trainers_save(content, how), tmp_path / "own.pth")
    made = encoder(weights=str(tmp_path / "own.pth"))
    assert torch.equal(made.network.state_dict()["features.0.weight"], content["features.0.weight"])
    if how in {"other classes", "headless"}:
        with pytest.raises(ParamsError, match=r"lacks 2 of the weights .* up to classifier.6 needs.*classifier.6"):
            encoder(weights=str(tmp_path / "own.pth"), layer="classifier.6", grid=1, image_size=224)


def test_a_vector_cannot_be_made_a_grid():
    with pytest.raises(ParamsError, match="gives one vector; must be 1, got 3"):
        encoder("alexnet", "classifier.4", 3, "auto")


def test_random_weights_follow_the_seed_alone():
    torch.manual_seed(99)
    first = encoder(seed=5).spec
    assert first == encoder(seed=5).spec
    assert first.weights_sha256 != encoder(seed=6).spec.weights_sha256


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v2", "densenet121"])
def test_a_row_does_not_depend_on_the_batch_around_it(name):
    made = encoder(name)
    batch = pixels(9, 64)
    with single_threaded():
        together = made.encode(batch)
        alone = np.concatenate([made.encode(batch[place : place + 1]) for place in range(9)])
    assert together.tobytes() == alone.tobytes()


def test_a_restored_encoder_gives_the_same_rows():
    made = encoder()
    again = restore(EncoderSpec.from_json(made.spec.to_json()), made.tensors_to_embed(), CPU)
    assert again.encode(pixels(2, 64)).tobytes() == made.encode(pixels(2, 64)).tobytes()


def test_other_weights_are_refused_by_their_digests():
    made, other = encoder(seed=1), encoder(seed=2)
    with pytest.raises(ArtefactError, match=made.spec.weights_sha256[:12]):
        restore(made.spec, other.tensors_to_embed(), CPU)


def test_weights_of_another_network_are_refused_by_name():
    made = encoder()
    tensors = dict(made.tensors_to_embed())
    tensors.pop(next(iter(tensors)))
    with pytest.raises(ArtefactError, match="not those of"):
        restore(made.spec, tensors, CPU)


@pytest.mark.parametrize("failure", [URLError("no route"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, failure):
    def fetch(*_, **__):
        raise failure

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    with pytest.raises(ParamsError, match=r"params.encoder.weights: DEFAULT of alexnet cannot be fetched .* its path"):
        encoder("alexnet", weights="DEFAULT")
    spec = replace(encoder("alexnet").spec, weights="IMAGENET1K_V1")
    with pytest.raises(ArtefactError, match=r"cannot be fetched .* --self-contained"):
        restore(spec, None, CPU)


def test_real_weights_are_read_at_the_size_they_were_trained_for(shared):
    path = str(shared / "weights" / "mobilenet_v2-imagenet.pth")
    made = encoder("mobilenet_v2", image_size="auto", grid=7, weights=path)
    assert (made.spec.weights, made.spec.layer, made.spec.transform.size) == ("file", "features", 224)
    assert (made.regions, made.channels) == (49, 1280)
