"""The encoder that a model file of captioner contains, as the weights of another project's encoder.

`encoder.weights` may name a model file, or the starter. Only what is needed is read: the spec and the tensors
`encoder.*`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.encoders.source import EncoderSource, LoadedModel
from pipeline.encoders.spec import METADATA_KEY, EncoderSpec, sha256_of_tensors
from pipeline.errors import ArtefactError, ParamsError
from pipeline.starter import STARTER, model_path
from pipeline.weight_rounding import in_float32

_PREFIX = "encoder."


def find_model_file(weights: str) -> Path | None:
    """Return the model file that `encoder.weights` names; None when it names anything else.

    Raises `ArtefactError` when it is the starter and there is none.
    """
    path = model_path(weights)
    if weights != STARTER and (path.suffix != ".safetensors" or not path.is_file()):
        return None
    return path if METADATA_KEY in _metadata(path) else None


def load_model_encoder(
    path: Path, source: EncoderSource, *, source_name: str, name: str, weights: str, layer: str, size: int | None
) -> tuple[LoadedModel, str]:
    """Return the network in the model file `path`, already cut at its layer, and the layer.

    `weights` is what params call the file. A `size` of None selects that of the model. Raises `ParamsError` when the
    file has no encoder, or one that the other params do not describe.
    """
    spec, tensors = _read(path, weights)
    for key, given, own in (("source", source_name, spec.source), ("name", name, spec.name)):
        if given != own:
            raise ParamsError(
                f"params.encoder.{key}: {given} is not that of {weights}; set params.encoder.source to {spec.source} "
                f"and params.encoder.name to {spec.name}"
            )
    if layer not in {"auto", spec.layer}:
        raise ParamsError(
            f"params.encoder.layer: {weights} has the weights up to {spec.layer}; set it to auto, got {layer!r}"
        )
    trained = spec.preprocessing
    network = source.empty_network(name, spec.layer, size or trained.size)
    try:
        network.load_state_dict(tensors, assign=True)  # it may be on the device `meta`
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ParamsError(
            f"params.encoder.image_size: the weights in {weights} do not fit {name} at {size or trained.size} pixels: "
            f"{reason}; set it to {trained.size}"
        ) from error
    # A model trained on stretched images does not know the margin of a crop: it has none.
    preprocessing = replace(trained, shorter_side=trained.shorter_side or trained.size)
    return LoadedModel(network.eval(), "file", preprocessing, size or trained.size), spec.layer


def _read(path: Path, weights: str) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """The spec and the encoder's tensors in float32."""
    from safetensors import safe_open

    try:
        spec = EncoderSpec.from_json(json.loads(_metadata(path)[METADATA_KEY])["spec"])
    except (ArtefactError, ValueError, LookupError, TypeError) as error:
        raise ParamsError(f"params.encoder.weights: {path}: not a model file of this version: {error}") from error
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
        # Copied, because safetensors maps the file: a change of the file must not change a running extraction.
        tensors = in_float32({name.removeprefix(_PREFIX): file.get_tensor(name).clone() for name in names})
    if not tensors:
        origin = (
            "another program computed its features" if spec.imported else f"it uses {spec.weights} of {spec.source}"
        )
        raise ParamsError(f"params.encoder.weights: {weights} has no encoder weights inside: {origin}")
    if sha256_of_tensors(tensors) != spec.weights_sha256:
        raise ParamsError(f"params.encoder.weights: {path}: damaged: the encoder's tensors do not match their sha256")
    return spec, tensors


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file; empty when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
