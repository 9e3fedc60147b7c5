"""Reading a network's weights from a file that another program saved."""

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ParamsError
from pipeline.file_signatures import other_content
from pipeline.wording import shown_names

SUFFIXES = frozenset({".pth", ".pt", ".ckpt", ".bin", ".safetensors"})
_KERAS = frozenset({".h5", ".hdf5", ".keras"})
_STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher")
"""Where training programs put the state dict in their checkpoints."""
_CLASSIFIERS = ("classifier", "head", "heads", "fc")
_COUNTER = "num_batches_tracked"
"""Unused, and absent from older files."""


def load_weights_file(
    model: nn.Module, path: Path, name: str, convert: Callable[[Any, nn.Module], Any] | None = None
) -> frozenset[str]:
    """Load the tensors of `path` that fit `model`; return the names that are missing or have another shape.

    Reads safetensors, plain state dicts and common checkpoints, in which the network may be a part of a larger one.
    `convert` may translate a state dict that does not fit. Loading never runs code from the file. Raises `ParamsError`
    when nothing or several networks fit.
    """
    content: Any = _read(path)
    content = content if isinstance(content, dict) else {}
    while inner := next((content[key] for key in _STATE_DICT_KEYS if isinstance(content.get(key), dict)), None):
        content = inner
    # The prefixes of torch.compile and DistributedDataParallel
    found = {str(key).removeprefix("_orig_mod.").removeprefix("module."): value for key, value in content.items()}
    expected = model.state_dict()
    prefix, fitting = _fitting(found, expected)
    converted: dict[str, Tensor] = {}
    if len(fitting) < len(expected) and convert:
        with suppress(Exception):  # a converter assumes a file of its network; without one the file is used as it is
            _, converted = _fitting(convert(dict(found), model), expected)
    if len(converted) > len(fitting):
        fitting = converted
    elif further := _further_layer(model, [key.removeprefix(prefix) for key in found if key.startswith(prefix)]):
        raise ParamsError(
            f"params.encoder.weights: {path} is of a deeper network than {name}, which has no {further}; set "
            "params.encoder.name to its network"
        )
    if not fitting:
        raise ParamsError(
            f"params.encoder.weights: {path} is not a state dict of {name}: "
            f"it has {shown_names(list(found), 3) or 'nothing'}, not {shown_names(list(expected), 3)}"
        )
    model.load_state_dict(fitting, strict=False)
    counters = {key for key in expected if key.endswith(_COUNTER)}
    return frozenset(expected.keys() - fitting.keys() - counters)


def _further_layer(model: nn.Module, names: Sequence[str]) -> str | None:
    """The first tensor that would extend a sequence of the model's layers, such as ResNet-101's for ResNet-50.

    Sequences of classifiers do not count: the features do not depend on them.
    """
    modules = dict(model.named_modules())
    for name in names:
        parts = name.split(".")
        if parts[0] in _CLASSIFIERS:
            continue
        depth = next(depth for depth in range(len(parts), -1, -1) if ".".join(parts[:depth]) in modules)
        sequence = modules[".".join(parts[:depth])]
        if isinstance(sequence, nn.Sequential | nn.ModuleList) and parts[depth].isdecimal():
            return name
    return None


def _fitting(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix and the tensors with expected names and shapes.

    In a checkpoint of a larger network they have a prefix, e.g. `visual.`: the one with which most tensors fit, or none
    if that is as good. Raises `ParamsError` when several prefixes fit equally well, as of a student and a teacher.
    """
    names = [key for key in expected if not key.endswith(_COUNTER)]
    ends = {names[0], max(names, key=len)} if names else set()  # the longest may be of a classifier that is not there
    prefixes = {key.removesuffix(end) for end in ends for key in found if key.endswith(end)} | {""}
    candidates = {
        prefix: {
            key: found[prefix + key]
            for key, value in expected.items()
            if isinstance(found.get(prefix + key), Tensor) and found[prefix + key].shape == value.shape
        }
        for prefix in sorted(prefixes)
    }
    prefix, best = max(candidates.items(), key=lambda candidate: len(candidate[1]))
    weights = [key for key in best if not key.endswith(_COUNTER)]
    equal = {prefix: tensors for prefix, tensors in candidates.items() if best and tensors.keys() == best.keys()}
    others = [tensors for tensors in equal.values() if tensors is not best]
    if "" not in equal and any(not torch.equal(one[key], best[key]) for one in others for key in weights):
        raise ParamsError(
            f"params.encoder.weights: the file holds several networks that fit: {', '.join(equal)}; "
            "save the state dict of one of them alone"
        )
    return prefix, best


def _read(path: Path) -> Any:
    if path.suffix in _KERAS:
        raise ParamsError(f"params.encoder.weights: {path}: Keras weights are not read; give a PyTorch state dict")
    if _is_torchscript(path):
        raise ParamsError(
            f"params.encoder.weights: {path} is a TorchScript program; save its weights alone: "
            "torch.save(torch.jit.load(OLD).state_dict(), NEW)"
        )
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path):
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if words := other_content(path):
            raise ParamsError(f"params.encoder.weights: {path}: {words}") from error
        raise ParamsError(
            f"params.encoder.weights: {path} holds more than weights, or something else; "
            "save the model's `state_dict()` alone"
        ) from error
    except Exception as error:  # torch.load raises a different class for each way in which a file can be wrong
        reason = other_content(path) or str(error).partition("\n")[0] or "it is empty or truncated"
        raise ParamsError(f"params.encoder.weights: {path} cannot be read: {reason}") from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors: 8 bytes with the length of a JSON object, and the object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _is_torchscript(path: Path) -> bool:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False
