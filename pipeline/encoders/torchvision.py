"""torchvision's classification networks: which there are, their weights and transform, and their nodes."""

import difflib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ParamsError


class WeightsNotFetched(Exception):
    """torchvision's weights are not on this machine, and cannot be had."""


RANDOM_STRIDE = 8
"""How fine the map has to be that `auto` takes from random weights, in pixels of the input per region."""


def blank_network(name: str) -> nn.Module:
    """An uninitialised-by-us torchvision classification model in evaluation mode."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise ParamsError(f"params.encoder.name: torchvision has no classification model {name!r}; {hint}")
    # These two were trained with inputs scaled otherwise, which they undo themselves when told to.
    options = {"init_weights": False, "transform_input": True} if name in {"googlenet", "inception_v3"} else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model.eval()


def load(name: str, weights: str, seed: int) -> tuple[nn.Module, str, dict[str, Any], frozenset[str]]:
    """The whole model, the name of its weights for the spec, its transform as plain values, and which of its weights
    a file of weights lacks: those of a head for other classes, say.

    Raises `ParamsError` for weights that there are not, `WeightsNotFetched`.
    """
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = blank_network(name)
    enum = models.get_model_weights(name)
    if weights == "none":
        return model, f"random:{seed}", _transform(enum["DEFAULT"]), frozenset()
    path = Path(weights)
    if path.is_file():
        return model, "file", _transform(enum["DEFAULT"]), _load_file(model, path, name)
    if path.suffix in {".pth", ".pt", ".ckpt", ".bin", ".safetensors"} or path.name != weights:
        raise ParamsError(f"params.encoder.weights: {weights}: no such file")
    try:
        chosen = enum[weights.rsplit(".", 1)[-1]]
    except KeyError:
        names = ", ".join(dict.fromkeys(["DEFAULT", *(member.name for member in enum)]))
        raise ParamsError(
            f"params.encoder.weights: must be one of {{{names}}} for {name}, a file, or none, got {weights!r}"
        ) from None
    try:
        tensors = chosen.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # the latter when what came is not what was published
        raise WeightsNotFetched(f"{weights} of {name} cannot be fetched from {chosen.url}: {error}") from error
    model.load_state_dict(tensors)
    return model, chosen.name, _transform(chosen), frozenset()


def _load_file(model: nn.Module, path: Path, name: str) -> frozenset[str]:
    """Give `model` what a file holds for it; the names of the weights that it has not, or in another shape."""
    try:
        content: Any = None
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ParamsError(
            f"params.encoder.weights: {path} holds more than weights, or something else; "
            "a file with the model's `state_dict()` alone is needed"
        ) from error
    except Exception as error:  # torch.load raises a different class for each way in which a file can be wrong
        reason = str(error).partition("\n")[0] or "it is empty or cut off"
        raise ParamsError(f"params.encoder.weights: {path} cannot be read: {reason}") from error
    for wrapped in ("state_dict", "model_state_dict", "model"):  # as trainers save it, among other things
        if isinstance(content, dict) and isinstance(content.get(wrapped), dict):
            content = content[wrapped]
    found = content if isinstance(content, dict) else {}
    found = {str(key).removeprefix("module."): value for key, value in found.items()}  # of DistributedDataParallel
    wanted = model.state_dict()
    fitting = {
        key: found[key]
        for key, value in wanted.items()
        if isinstance(found.get(key), Tensor) and found[key].shape == value.shape
    }
    if not fitting:
        raise ParamsError(
            f"params.encoder.weights: {path} is not a state dict of {name}: it has {_few(found)}, not {_few(wanted)}"
        )
    model.load_state_dict(fitting, strict=False)
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # unread, and not in older files
    return frozenset(wanted.keys() - fitting.keys() - counters)


def _few(names: Iterable[str]) -> str:
    """The first of them."""
    several = list(names)
    return ", ".join(several[:3]) + (", ..." if len(several) > 3 else "") if several else "nothing"


def _transform(weights: Any) -> dict[str, Any]:
    """torchvision's own preprocessing as plain values."""
    preset = weights.transforms()
    return {
        "size": preset.crop_size[0],
        "shorter_side": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def up_to(model: nn.Module, layer: str, name: str) -> nn.Module:
    """The part of `model` that `layer` depends on; its output is `{"layer": tensor}`."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        network: nn.Module = create_feature_extractor(model, {layer: "layer"}, suppress_diff_warning=True)
        return network.eval()
    except ValueError as error:
        known = get_graph_node_names(model, suppress_diff_warning=True)[1]
        close = difflib.get_close_matches(layer, [*_blocks(known[1:]), *known[1:]], n=3)
        hint = f"did you mean {', '.join(dict.fromkeys(close))}? " if close else ""
        raise ParamsError(
            f"params.encoder.layer: {name} has no layer {layer!r}; {hint}known: {', '.join(_blocks(known[1:]))}"
        ) from error


def _blocks(nodes: list[str]) -> list[str]:
    """The nodes that people choose: the names down to two levels, in the network's order."""
    names = (".".join(layer.split(".")[:depth]) for layer in nodes for depth in (1, 2))
    return list(dict.fromkeys(names))


@torch.inference_mode()
def last_map(model: nn.Module, name: str, size: int, stride: int | None) -> str:
    """The last block whose output still has rows and columns (at least as fine as `stride`), or the last tokens."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = _blocks(get_graph_node_names(model, suppress_diff_warning=True)[1][1:])
    nodes = [layer for layer in nodes if not layer.startswith(("avgpool", "classifier", "fc", "head"))]
    extractor = create_feature_extractor(model, {layer: layer for layer in nodes}, suppress_diff_warning=True)
    outputs = forward(extractor, torch.zeros(1, 3, size, size), name)
    best = None
    for layer, output in outputs.items():  # in the order in which the network computes them
        side = _side(output)
        if side > 1 and not (stride and size // side > stride):
            best = layer
    if best is None and stride:  # a transformer's patches are coarser from the start
        return last_map(model, name, size, None)
    if best is None:
        raise ParamsError("params.encoder.layer: auto finds no feature map in this network; name a layer")
    return best


def forward(network: nn.Module, batch: Tensor, name: str) -> dict[str, Tensor]:
    """The outputs by layer. Raises `ParamsError` when the network does not take pictures of this size."""
    try:
        outputs: dict[str, Tensor] = network(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ParamsError(f"params.encoder.image_size: {name} does not accept {batch.shape[-1]}: {error}") from error
    return outputs


def _side(output: object) -> int:
    """Rows of a layer's square map or of its square of tokens; 0 for what has none."""
    if not isinstance(output, Tensor):
        return 0
    if output.dim() == 4:
        return output.shape[1] if output.shape[1] == output.shape[2] else output.shape[2]
    if output.dim() == 3:
        side = int((output.shape[1] - 1) ** 0.5)
        return side if side * side + 1 == output.shape[1] else 0
    return 0
