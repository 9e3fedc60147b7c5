"""timm's networks as an encoder source: CNNs and vision transformers, with the layers that timm lists for each.

B images, S input side, C channels, H x W the layer's map.
"""

import math
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pipeline.encoders.images import BACKGROUND
from pipeline.encoders.source import (
    FEATURES,
    POOLED,
    RANDOM_IMAGE_SIZE,
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
from pipeline.encoders.weights_file import load_weights_file
from pipeline.errors import ParamsError


class Timm(EncoderSource):
    """timm's networks.

    Layers: `features`, the last map after the final norm or convolution, without class and register tokens; `pooled`,
    the vector before the classifier; and the modules in the model's `feature_info`, e.g. `blocks.10`.
    """

    library = f"timm {timm.__version__}"

    def load(self, name: str, weights: str, size: int | None, seed: int) -> LoadedModel:
        """See `EncoderSource.load`. Weights are named by timm's tags, e.g. `a1_in1k`; DEFAULT is the model's first."""
        model = _create(name, seed)
        tag, missing = weights, frozenset[str]()
        path = Path(weights)
        if weights == "none":
            tag = f"random:{seed}"
        elif path.is_file():
            # timm's function that converts the authors' own checkpoints of this family to its names, where it has one
            convert = getattr(import_module(type(model).__module__), "checkpoint_filter_fn", None)
            tag, missing = "file", load_weights_file(model, path, name, convert)
        else:
            check_weights_path(weights)
            model, tag = _download(name, weights)
        preprocessing = _preprocessing(model)
        resizable = not model.pretrained_cfg.get("fixed_input_size", False)
        own_size = RANDOM_IMAGE_SIZE if weights == "none" and resizable else preprocessing.size
        resized = size is not None and size != preprocessing.size and set_input_size(model, size, name)
        return LoadedModel(model, tag, preprocessing, size or own_size, missing, resized)

    def empty_network(self, name: str, layer: str, size: int) -> nn.Module:
        """See `EncoderSource.empty_network`.

        The network is built on the CPU: on the `meta` device, buffers that a state dict lacks would have no values.
        """
        model = _create(name, seed=0)
        if size != _preprocessing(model).size:
            set_input_size(model, size, name)
        return self.cut_at(model, layer, name)

    def default_layer(self, loaded: LoadedModel, name: str) -> str:
        """Return `features`; with random weights the last module of at most `RANDOM_STRIDE`, where there is one."""
        model: Any = loaded.model
        fine = [info["module"] for info in model.feature_info if info["reduction"] <= RANDOM_STRIDE]
        return fine[-1] if fine and not loaded.pretrained else FEATURES

    def cut_at(self, model: nn.Module, layer: str, name: str) -> nn.Module:
        """See `EncoderSource.cut_at`."""
        return cut_timm_model(model, layer, name)


class FeatureNetwork(nn.Module):
    """The part of a timm model up to one layer: images (B, 3, S, S) to a map (B, C, H, W) or a vector (B, C)."""

    def __init__(self, model: Any, layer: str, index: int | None) -> None:
        super().__init__()
        self.model = model
        self._layer = layer
        self._index = index
        """Position of the layer among the model's intermediate maps; None when it is none of them."""

    def forward(self, images: Tensor) -> Tensor:
        if self._index is None:
            output: Tensor = self.model(images) if self._layer == POOLED else self.model.forward_features(images)
            return output
        # timm removes class and register tokens, and arranges patch tokens and maps of any layout as (B, C, H, W).
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=[self._index], norm=self._layer == FEATURES, output_fmt="NCHW", intermediates_only=True
        )
        return maps[0]


def cut_timm_model(model: Any, layer: str, name: str) -> nn.Module:
    """Return the part of a timm model up to `layer`, without the weights after it. Changes `model`.

    Raises `ParamsError` for an unknown layer.
    """
    modules = [info["module"] for info in model.feature_info]
    find_layer(layer, [FEATURES, POOLED, *modules], name)
    last = len(modules) - 1
    index: int | None = modules.index(layer) if layer in modules else last
    # A convolution follows the last module in EfficientNet and others; the intermediate maps lack it.
    longer = model.num_features != model.feature_info[last]["num_chs"]
    if layer == POOLED or (layer == FEATURES and longer):
        index = None
    try:
        if index is None:
            model.reset_classifier(0)
        else:
            model.prune_intermediate_layers([index], prune_norm=layer != FEATURES, prune_head=True)
    except AssertionError as error:  # in a few models that cannot do without their classifier
        raise ParamsError(f"params.encoder.layer: timm cannot cut {name} at {layer}: {error}") from error
    return FeatureNetwork(model, layer, index).eval()


def _create(name: str, seed: int) -> Any:
    """Build the network `name` with random weights. Raises `ParamsError` for an unknown name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = suggest(name, timm.list_models())
        raise ParamsError(f"params.encoder.name: timm has no model {name!r}; {hint}timm.list_models() lists them")
    if tag:
        raise ParamsError(
            f"params.encoder.name: {name} names a model and its weights; set name to {architecture} and "
            f"params.encoder.weights to {tag}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False).eval()


def _download(name: str, weights: str) -> tuple[Any, str]:
    """Return the network with its published weights, and their tag. Raises `ParamsError`, `WeightsNotFetched`."""
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    tag = timm.get_pretrained_cfg(name).tag if weights == "DEFAULT" and tags else weights
    if tag not in tags:
        names = ", ".join(["DEFAULT", *tags] if tags else [])
        raise ParamsError(
            f"params.encoder.weights: must be one of {{{names}}} for {name}, a file, or none, got {weights!r}"
        )
    try:
        return timm.create_model(f"{name}.{tag}", pretrained=True).eval(), tag
    except (OSError, RuntimeError) as error:
        raise WeightsNotFetched(f"{weights} of {name} cannot be downloaded: {error}") from error


def _preprocessing(model: nn.Module) -> Preprocessing:
    config = timm.data.resolve_data_config({}, model=model)
    size = config["input_size"][-1]
    share = min(config["crop_pct"], 1)  # above 1 timm adds a border
    return Preprocessing(
        size=size,
        shorter_side=None if config["crop_mode"] == "squash" else math.floor(size / share),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        background=BACKGROUND,
    )


def set_input_size(model: Any, size: int, name: str) -> bool:
    """Prepare a model whose weights depend on the input size, such as position embeddings, for another one.

    Returns whether a tensor was resized.
    """
    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, timm.layers.PatchEmbed) and not patches.dynamic_img_pad:
        check_patches(size, patches.patch_size[0], name)
    if not hasattr(model, "set_input_size"):
        return False
    before = _shapes(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the speed of an interpolation
            model.set_input_size((size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ParamsError(f"params.encoder.image_size: {name} does not accept {size}: {error}") from error
    return _shapes(model) != before


def _shapes(model: nn.Module) -> list[torch.Size]:
    return [tensor.shape for tensor in model.state_dict().values()]
