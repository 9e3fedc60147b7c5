"""Reading a network's weights from a file that another program saved."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
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
    for key in _STATE_DICT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    content = content if isinstance(content, dict) else {}
    # The prefixes of torch.compile and DistributedDataParallel
    found = {str(key).removeprefix("_orig_mod.").removeprefix("module."): value for key, value in content.items()}
    expected = model.state_dict()
    fitting = _fitting(found, expected)
    if len(fitting) < len(expected) and convert:
        with suppress(Exception):  # a converter assumes a file of its network; without one the file is used as it is
            fitting = max(fitting, _fitting(convert(dict(found), model), expected), key=len)
    if not fitting:
        raise ParamsError(
            f"params.encoder.weights: {path} is not a state dict of {name}: "
            f"it has {shown_names(list(found), 3) or 'nothing'}, not {shown_names(list(expected), 3)}"
        )
    model.load_state_dict(fitting, strict=False)
    counters = {key for key in expected if key.endswith(_COUNTER)}
    return frozenset(expected.keys() - fitting.keys() - counters)


def _fitting(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with expected names and shapes.

    In a checkpoint of a larger network they have a prefix, e.g. `visual.`: the one with which most tensors fit, or none
    if that is as good. Raises `ParamsError` when several prefixes fit equally well, as of a student and a teacher.
    """
    last = max((key for key in expected if not key.endswith(_COUNTER)), key=len, default="")
    prefixes = {key.removesuffix(last) for key in found if key.endswith(last)} | {""}
    candidates = {
        prefix: {
            key: found[prefix + key]
            for key, value in expected.items()
            if isinstance(found.get(prefix + key), Tensor) and found[prefix + key].shape == value.shape
        }
        for prefix in sorted(prefixes)
    }
    best = max(candidates.values(), key=len)
    weights = [key for key in best if not key.endswith(_COUNTER)]
    equal = {prefix: tensors for prefix, tensors in candidates.items() if best and tensors.keys() == best.keys()}
    others = [tensors for tensors in equal.values() if tensors is not best]
    if "" not in equal and any(not torch.equal(one[key], best[key]) for one in others for key in weights):
        raise ParamsError(
            f"params.encoder.weights: the file holds several networks that fit: {', '.join(equal)}; "
            "save the state dict of one of them alone"
        )
    return best


def _read(path: Path) -> Any:
    if path.suffix in _KERAS:
        raise ParamsError(f"params.encoder.weights: {path}: Keras weights are not read; give a PyTorch state dict")
    if _is_torchscript(path):
        raise ParamsError(
            f"params.encoder.weights: {path} is a TorchScript program; save its weights alone: "
            "torch.save(torch.jit.load(OLD).state_dict(), NEW)"
        )
    try:
        if path.suffix == ".safetensors":
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


def _is_torchscript(path: Path) -> bool:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False
