"""The image towers of open_clip's models as an encoder source: vision transformers, ResNets and timm's networks.

B images, S input side, C channels, H x W the layer's map.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from pipeline.encoders.images import BACKGROUND
from pipeline.encoders.source import (
    FEATURES,
    POOLED,
    RANDOM_STRIDE,
    EncoderSource,
    LoadedModel,
    WeightsNotFetched,
    check_patches,
    check_weights_path,
    find_layer,
    suggest,
)
from pipeline.encoders.spec import Preprocessing
from pipeline.encoders.timm import cut_timm_model, set_input_size
from pipeline.encoders.weights_file import load_weights_file
from pipeline.errors import ParamsError

_RESNET_LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
_RESNET_STRIDES = (4, 4, 8, 16, 32)
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
"""The smallest text tower. Encoding images needs none, but open_clip builds no model without one."""


class OpenClip(EncoderSource):
    """The image towers of open_clip.

    Layers: `features`, the normalized patch tokens without the class token, or a CNN's last map; `pooled`, the vector
    that is compared with texts; and the tower's blocks, e.g. `transformer.resblocks.10` or `layer3`.
    """

    library = f"open_clip {open_clip.__version__}"

    def load(self, name: str, weights: str, size: int | None, seed: int) -> LoadedModel:
        """See `EncoderSource.load`. Weights are named by open_clip's tags, e.g. `openai` or `laion2b_s34b_b79k`."""
        config = _config(name)
        tags = open_clip.list_pretrained_tags_by_model(name)
        path = Path(weights)
        preprocessing = _preprocessing(config, name, tags[0] if tags else None)
        if weights == "none":
            tower = _tower(name, config, size, seed)
            return LoadedModel(tower, f"random:{seed}", preprocessing, size or preprocessing.size)
        if path.is_file():
            tower = _tower(name, config, size if _is_transformer(config) else None, seed)
            missing = load_weights_file(tower, path, name, _resize_position_embeddings)
            _resize(tower, size, name)
            return LoadedModel(tower, "file", preprocessing, size or preprocessing.size, missing)
        check_weights_path(weights)
        tower, resized = _download(name, config, weights, tags, size)
        preprocessing = _preprocessing(config, name, weights)
        return LoadedModel(tower, weights, preprocessing, size or preprocessing.size, resized=resized)

    def empty_network(self, name: str, layer: str, size: int) -> nn.Module:
        """See `EncoderSource.empty_network`."""
        return self.cut_at(_tower(name, _config(name), size, seed=0), layer, name)

    def default_layer(self, loaded: LoadedModel, name: str) -> str:
        """Return `features`; with random weights a CNN's last block of at most `RANDOM_STRIDE`."""
        strides = _layer_strides(loaded.model)
        fine = [layer for layer, stride in strides.items() if stride <= RANDOM_STRIDE]
        return fine[-1] if fine and not loaded.pretrained else FEATURES

    def cut_at(self, model: nn.Module, layer: str, name: str) -> nn.Module:
        """See `EncoderSource.cut_at`."""
        layers = list(_layer_strides(model))
        find_layer(layer, [FEATURES, POOLED, *layers], name)
        tower: Any = model
        if layer == POOLED:
            tower.output_tokens = False  # of CoCa's towers, which return the pooled vector and the tokens
            return tower.eval()  # type: ignore[no-any-return]
        if hasattr(tower, "trunk"):
            return cut_timm_model(tower.trunk, layer, name)
        index = len(layers) - 1 if layer == FEATURES else layers.index(layer)
        norm = False
        if hasattr(tower, "transformer"):
            # An attentional pooler changes the width before the norm, which then does not fit the tokens.
            norm = layer == FEATURES and tower.attn_pool is None
            tower.prune_intermediate_layers([index], prune_norm=not norm, prune_head=True)
            tower.attn_pool = None
        else:
            for unused in (*layers[index + 1 :], "attnpool"):
                setattr(tower, unused, nn.Identity())
        return ImageTower(tower, index, norm=norm).eval()


class ImageTower(nn.Module):
    """The part of a tower up to one layer: images (B, 3, S, S) to a map (B, C, H, W)."""

    def __init__(self, tower: Any, index: int, *, norm: bool) -> None:
        super().__init__()
        self.model = tower
        self._index = index
        """Position of the layer among the tower's blocks."""
        self._norm = norm

    def forward(self, images: Tensor) -> Tensor:
        # open_clip removes the class token and arranges patch tokens as (B, C, H, W).
        outputs: dict[str, list[Tensor]] = self.model.forward_intermediates(
            images, indices=[self._index], normalize_intermediates=self._norm, intermediates_only=True
        )
        return outputs["image_intermediates"][0]


def _layer_strides(tower: Any) -> dict[str, int]:
    """Return the tower's blocks in the order of computation, with their strides in input pixels."""
    if hasattr(tower, "trunk"):
        return {info["module"]: info["reduction"] for info in tower.trunk.feature_info}
    if hasattr(tower, "transformer"):
        blocks = range(len(tower.transformer.resblocks))
        return {f"transformer.resblocks.{number}": tower.patch_size[0] for number in blocks}
    return dict(zip(_RESNET_LAYERS, _RESNET_STRIDES, strict=True))


def _config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of the model. Raises `ParamsError` for an unknown name."""
    known = open_clip.list_models()
    if name not in known:
        hint = suggest(name, known)
        raise ParamsError(
            f"params.encoder.name: open_clip has no model {name!r}; {hint}open_clip.list_models() lists them"
        )
    config: dict[str, Any] = open_clip.get_model_config(name)
    return config


def _is_transformer(config: dict[str, Any]) -> bool:
    """Whether the tower is open_clip's own vision transformer, whose position embeddings depend on the input size."""
    vision = config["vision_cfg"]
    return "timm_model_name" not in vision and not isinstance(vision["layers"], list)


def _tower(name: str, config: dict[str, Any], size: int | None, seed: int) -> Any:
    """Build the image tower with random weights, for inputs of `size` pixels."""
    force = size if _is_transformer(config) else None
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                name, load_weights=False, pretrained_text=False, force_image_size=force, text_cfg=dict(_NO_TEXT)
            )
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ParamsError(f"params.encoder.name: open_clip cannot build {name} here: {error}") from error
    _resize(model.visual, size, name)
    return model.visual.eval()


def _download(name: str, config: dict[str, Any], tag: str, tags: list[str], size: int | None) -> tuple[Any, bool]:
    """Return the image tower with its published weights, and whether some were resized.

    Raises `ParamsError`, `WeightsNotFetched`.
    """
    if tag not in tags:
        raise ParamsError(
            f"params.encoder.weights: must be one of {{{', '.join(tags)}}} for {name}, a file, or none, got {tag!r}"
        )
    published = open_clip.get_pretrained_cfg(name, tag)
    if published.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = name.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{name}-quickgelu"
        raise ParamsError(f"params.encoder.name: {tag} was trained with another activation; set name to {other}")
    with _quiet():
        try:
            open_clip.download_pretrained(published)
        except (OSError, RuntimeError) as error:
            raise WeightsNotFetched(f"{tag} of {name} cannot be downloaded: {error}") from error
        force = size if _is_transformer(config) else None
        model = open_clip.create_model(name, pretrained=tag, force_image_size=force)
    resized = _resize(model.visual, size, name) or force not in {None, config["vision_cfg"]["image_size"]}
    return model.visual.eval(), resized


def _resize(tower: Any, size: int | None, name: str) -> bool:
    """Set the input size of a tower that is a network of timm, and check that of others. Returns whether it resized a
    tensor."""
    if size and hasattr(tower, "transformer"):
        check_patches(size, tower.patch_size[0], name)
    is_other = hasattr(tower, "trunk") and size != tower.image_size[0]
    return size is not None and is_other and set_input_size(tower.trunk, size, name)


def _resize_position_embeddings(found: dict[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
    """Interpolate a checkpoint's position embeddings to the tower's input size; keys get the prefix `visual.`."""
    from open_clip.model import resize_pos_embed

    if not any(key.startswith("visual.") for key in found):
        found = {f"visual.{key}": value for key, value in found.items()}
    resize_pos_embed(found, SimpleNamespace(visual=tower))
    return found


def _preprocessing(config: dict[str, Any], name: str, tag: str | None) -> Preprocessing:
    """Return the preprocessing of published weights; without any, open_clip's default."""
    published = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    size = config["vision_cfg"]["image_size"]
    return Preprocessing(
        size=size,
        shorter_side=None if published.get("resize_mode") == "squash" else size,
        interpolation=published.get("interpolation", "bicubic"),
        mean=tuple(published.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(published.get("std", open_clip.OPENAI_DATASET_STD)),
        background=BACKGROUND,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: nothing is logged. open_clip logs that it leaves random weights random."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
