"""torchvision's classification networks as an encoder source.

B images, S input side, C channels, H x W the layer's map, T tokens.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.encoders.images import BACKGROUND
from pipeline.encoders.source import (
    RANDOM_IMAGE_SIZE,
    RANDOM_STRIDE,
    EncoderSource,
    LoadedModel,
    WeightsNotFetched,
    check_weights_path,
    run_network,
    suggest,
)
from pipeline.encoders.spec import Preprocessing
from pipeline.encoders.weights_file import load_weights_file
from pipeline.errors import ParamsError


class Torchvision(EncoderSource):
    """torchvision's classification models."""

    library = ""

    def load(self, name: str, weights: str, size: int | None, seed: int) -> LoadedModel:
        """See `EncoderSource.load`."""
        enum = _published(name)
        default = _preprocessing(enum["DEFAULT"])
        if weights == "none":
            model = _create(name, size, seed)
            own_size = getattr(model, "image_size", RANDOM_IMAGE_SIZE)  # vision transformers accept one size only
            return LoadedModel(model, f"random:{seed}", default, size or own_size)
        path = Path(weights)
        if path.is_file():
            model = _create(name, size or default.size, seed)
            missing = load_weights_file(model, path, name)
            return LoadedModel(model, "file", default, size or default.size, missing)
        check_weights_path(weights)
        try:
            chosen = enum[weights.rsplit(".", 1)[-1]]
        except KeyError:
            names = ", ".join(dict.fromkeys(["DEFAULT", *(member.name for member in enum)]))
            raise ParamsError(
                f"params.encoder.weights: must be one of {{{names}}} for {name}, a file, or none, got {weights!r}"
            ) from None
        try:
            tensors = chosen.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: the download does not have the published hash
            raise WeightsNotFetched(f"{weights} of {name} cannot be downloaded from {chosen.url}: {error}") from error
        preprocessing = _preprocessing(chosen)
        model = _create(name, preprocessing.size, seed)
        model.load_state_dict(tensors)
        if size and size != getattr(model, "image_size", size):  # of a vision transformer
            raise ParamsError(
                f"params.encoder.image_size: {name} with {weights} accepts {preprocessing.size} only, got {size}; "
                "set it to auto"
            )
        return LoadedModel(model, chosen.name, preprocessing, size or preprocessing.size)

    def empty_network(self, name: str, layer: str, size: int) -> nn.Module:
        """See `EncoderSource.empty_network`."""
        from torchvision import models  # noqa: F401  torchvision 0.21 creates tensors when it is imported

        try:
            with torch.device("meta"):
                return self.cut_at(_create(name, size, seed=0), layer, name)
        except NotImplementedError:  # RegNet computes its widths with tensors, which need values
            return self.cut_at(_create(name, size, seed=0), layer, name)

    def default_layer(self, loaded: LoadedModel, name: str) -> str:
        """Return the last layer whose output is a map, or the last transformer tokens.

        With random weights it is the last map of at most `RANDOM_STRIDE`, where the network has one.
        """
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        layers = _main_layers(get_graph_node_names(loaded.model, suppress_diff_warning=True)[1])
        layers = [layer for layer in layers if not layer.startswith(("avgpool", "classifier", "fc", "head"))]
        extractor = create_feature_extractor(
            loaded.model, {layer: layer for layer in layers}, suppress_diff_warning=True
        )
        size = loaded.image_size
        outputs = run_network(extractor, torch.zeros(1, 3, size, size), name)
        assert isinstance(outputs, dict)
        sides = {layer: _map_side(output) for layer, output in outputs.items()}  # in the order of computation
        maps = [layer for layer, side in sides.items() if side > 1]
        fine = [layer for layer in maps if size // sides[layer] <= RANDOM_STRIDE]
        if not loaded.pretrained and fine:
            return fine[-1]
        if not maps:
            raise ParamsError("params.encoder.layer: auto finds no feature map in this network; name a layer")
        return maps[-1]

    def cut_at(self, model: nn.Module, layer: str, name: str) -> nn.Module:
        """See `EncoderSource.cut_at`."""
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        for constant in [key for key in vars(model) if key.startswith("_tensor_constant")]:
            delattr(model, constant)  # of an earlier tracing, after which this one would number its own differently
        try:
            extractor = create_feature_extractor(model, {layer: "output"}, suppress_diff_warning=True).eval()
        except ValueError as error:
            names = get_graph_node_names(model, suppress_diff_warning=True)[1]
            known = _main_layers(names)
            hint = suggest(layer, list(dict.fromkeys([*known, *names[1:]])))
            raise ParamsError(
                f"params.encoder.layer: {name} has no layer {layer!r}; {hint}known: {', '.join(known)}"
            ) from error
        graph = extractor.graph
        (end,) = graph.find_nodes(op="output")
        end.args = (end.args[0]["output"],)  # the tensor itself in place of torchvision's dict
        return fx.GraphModule(extractor, graph).eval()

    def feature_map(self, output: Tensor, layer: str) -> Tensor:
        """See `EncoderSource.feature_map`."""
        if output.dim() == 3:  # (B, 1 + T, C): a transformer's tokens, the class token first
            side = _map_side(output)
            if not side:
                raise ParamsError(
                    f"params.encoder.layer: {layer} outputs {tuple(output.shape)}, which is not a square of tokens"
                )
            tokens = output[:, 1:].transpose(1, 2)  # (B, C, T)
            return tokens.reshape(*tokens.shape[:2], side, side)
        if output.dim() == 4 and _has_channels_last(output, layer):
            return output.permute(0, 3, 1, 2)
        return super().feature_map(output, layer)


def _published(name: str) -> Any:
    """The enumeration of the network's published weights. Raises `ParamsError` for an unknown name."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ParamsError(
            f"params.encoder.name: torchvision has no classification model {name!r}; {suggest(name, known)}"
            "torchvision.models.list_models(torchvision.models) lists them"
        )
    return models.get_model_weights(name)


def _create(name: str, size: int | None, seed: int) -> nn.Module:
    """Build the network `name` with random weights. Raises `ParamsError` for an impossible size.

    A vision transformer accepts images of `size` pixels only; None selects torchvision's default.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:  # trained on inputs scaled differently; transform_input converts ours
        options = {"init_weights": False, "transform_input": True}
    elif size and name.startswith("vit_"):
        options = {"image_size": size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = models.get_model(name, weights=None, **options)
        except AssertionError as error:
            raise ParamsError(f"params.encoder.image_size: {name} does not accept {size}: {error}") from error
    return model.eval()


def _preprocessing(weights: Any) -> Preprocessing:
    preset = weights.transforms()
    return Preprocessing(
        size=preset.crop_size[0],
        shorter_side=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        background=BACKGROUND,
    )


def _main_layers(names: list[str]) -> list[str]:
    """Shorten torchvision's node names (without the input's) to two levels, in the order of computation."""
    return list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names[1:] for depth in (1, 2)))


def _has_channels_last(output: Tensor, layer: str) -> bool:
    """Whether a map of a square input is (B, H, W, C), as Swin's are, and not (B, C, H, W)."""
    first, middle, last = output.shape[1:]
    if first == middle == last:
        raise ParamsError(
            f"params.encoder.layer: {layer} outputs {tuple(output.shape)}, where channels look like rows; "
            "choose a neighboring layer or another image_size"
        )
    return first == middle


def _map_side(output: object) -> int:
    """Rows of a layer's square map or square of tokens; 0 for other outputs."""
    if not isinstance(output, Tensor):
        return 0
    if output.dim() == 4:
        return output.shape[2]
    if output.dim() == 3:
        side = int((output.shape[1] - 1) ** 0.5)
        return side if side * side + 1 == output.shape[1] else 0
    return 0
