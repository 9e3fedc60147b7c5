"""Export a trained model as ONNX networks, for programs without torch.

The decoder becomes two networks: its start and one step. A search in any language calls the step until EOS.

B images (or beams), S side of the encoder's input, R regions, C channels, V vocabulary, H hidden size.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import StrictUndefined, Template
from torch import Tensor, nn

from pipeline.decoders.decoder import Decoder, State
from pipeline.encoders.registry import get_source
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ParamsError
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.onnx.captioner import IMAGE_VECTOR
from pipeline.inference.onnx.folder import (
    DESCRIPTION,
    ENCODER,
    EXAMPLE,
    FAMILIARITY,
    README,
    RERANKER,
    SCHEMA,
    START,
    STEP,
    check_replaceable,
    folder_digest,
    write_folder,
)

if TYPE_CHECKING:
    from pipeline.inference.captioner import Captioner

OPSET = 18


class ExportedEncoder(nn.Module):
    """Features (B, R, C) of RGB pixels (B, S, S, 3) from 0 to 255.

    Computes in float32; the features are rounded to float16 and back, as those that the decoder was trained on.
    """

    mean: Tensor
    std: Tensor
    pooling: Tensor

    def __init__(self, network: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.network = deepcopy(network).float().cpu()
        self._source = get_source(spec.source)
        self._layer = spec.layer
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(spec.preprocessing.std).view(3, 1, 1) * 255)
        size = spec.preprocessing.size
        with torch.no_grad():
            output = self._output(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        self._is_vector = output.dim() == 2
        averaged = not self._is_vector and output.shape[-1] != spec.grid
        self.register_buffer("pooling", _pooling(output.shape[-1], spec.grid) if averaged else torch.empty(0))

    def forward(self, pixels: Tensor) -> Tensor:
        output = self._output(pixels)
        if self._is_vector:  # (B, C)
            regions = output.unsqueeze(1)
        else:  # (B, C, h, w)
            regions = output.flatten(2).transpose(1, 2)  # (B, h w, C)
            regions = self.pooling @ regions if len(self.pooling) else regions
        return regions.to(torch.float16).to(torch.float32)

    def _output(self, pixels: Tensor) -> Tensor:
        batch = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std  # (B, 3, S, S)
        return self._source.feature_map(self.network(batch).float(), self._layer)


class ExportedStart(nn.Module):
    """From features (B, R, C) to the image vectors (B, H) and the state before the first token."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        state = self.decoder.start(features)
        # A clone: the vector may be a part of the state, and one tensor cannot be two outputs.
        return self.decoder.image_vector(state).clone(), *state.image, *state.beam


class ExportedStep(nn.Module):
    """From the latest tokens (B,) and the state to log-probabilities (B, V), attention weights (B, R) if the decoder
    has any, and the next state without its constant parts, which are the first `constant` ones.

    One beam per image: a search repeats the constant parts for each beam, because ONNX cannot express that one
    dimension is a multiple of another.
    """

    def __init__(self, decoder: Decoder, constant: int) -> None:
        super().__init__()
        self.decoder = decoder
        self._constant = constant

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        log_probs, following = self.decoder.step(State(state[: self._constant], state[self._constant :]), tokens)
        weights = self.decoder.attention_weights(following)
        attention = () if weights is None else (weights.clone(),)
        return log_probs, *attention, *following.beam


def export_onnx(captioner: "Captioner", folder: Path, *, model_sha256: str | None = None) -> float:
    """Write the networks, captioner.json, a README and an example into `folder`, and the training captions and the
    familiarity if the model stores them. `model_sha256` of the model file lets a reader notice that the model has
    changed since.

    Returns the size of the networks in MB. The folder is replaced as a whole. Raises as `check_export`, and
    `DiskError`.
    """
    check_export(folder)
    decoder = deepcopy(captioner.model.decoder).float().cpu().eval()
    state, constant, attention = _state_of(decoder, captioner.model.regions, captioner.model.channels)
    parts = _networks(captioner, decoder, state, constant, attention=attention)
    megabytes = sum(map(len, parts.values())) / 1e6
    from safetensors.numpy import save

    if captioner.reranker:
        parts[RERANKER] = save(captioner.reranker.arrays())
    if captioner.familiarity:
        parts[FAMILIARITY] = save(captioner.familiarity.arrays())
    preprocessing = captioner.spec.preprocessing
    description = {
        "schema": SCHEMA,
        "model_sha256": model_sha256,
        "trained_on": dict(captioner.trained_on),
        "spec": captioner.spec.to_json(),
        "vocabulary": captioner.vocabulary.to_json(),
        "state": list(state),
        "constant_state": constant,
        "hidden": decoder.hidden,
        "attention": attention,
        "reranker": captioner.reranker is not None,
        "familiarity": captioner.familiarity is not None,
        "channels": captioner.model.channels,
        "input": {
            "size": preprocessing.size,
            "shorter_side": preprocessing.shorter_side,
            "interpolation": preprocessing.interpolation,
            "fill_truncated": preprocessing.fill_truncated,
        },
    }
    description["digest"] = folder_digest(description, parts)
    texts = {
        DESCRIPTION: json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        README: _readme(captioner.model, state, constant),
        EXAMPLE: _template("caption.py.txt"),
    }
    write_folder(folder, {**parts, **{name: text.encode() for name, text in texts.items()}})
    return megabytes


def _state_of(decoder: Decoder, regions: int, channels: int) -> tuple[dict[str, Tensor], list[str], bool]:
    """The decoder's first state for two images by name, the names of its constant parts, and whether it has
    attention weights."""
    with torch.no_grad():
        state = decoder.start(torch.zeros(2, regions, channels))
        attention = decoder.attention_weights(decoder.step(state, torch.ones(2, dtype=torch.long))[1]) is not None
    constant = [f"image_{place}" for place in range(len(state.image))]
    changing = [f"beam_{place}" for place in range(len(state.beam))]
    # Clones: one tensor of zeros in several places would become one input.
    parts = (part.clone() for part in (*state.image, *state.beam))
    return dict(zip([*constant, *changing], parts, strict=True)), constant, attention


def _networks(
    captioner: "Captioner",
    decoder: Decoder,
    state: Mapping[str, Tensor],
    constant: Sequence[str],
    *,
    attention: bool,
) -> dict[str, bytes]:
    """The three ONNX files by name."""
    size = captioner.spec.preprocessing.size
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    features = torch.zeros(2, captioner.model.regions, captioner.model.channels)
    tokens = torch.ones(2, dtype=torch.long)
    following = [f"next_{name}" for name in state if name not in constant]
    outputs = ["log_probs", *(["attention"] if attention else []), *following]
    encoder, start = ExportedEncoder(captioner.encoder.network, captioner.spec), ExportedStart(decoder)
    step = ExportedStep(decoder, len(constant))
    return {
        ENCODER: _onnx(encoder, (pixels,), ["pixels"], ["features"]),
        START: _onnx(start, (features,), ["features"], [IMAGE_VECTOR, *state]),
        STEP: _onnx(step, (tokens, *state.values()), ["tokens", *state], outputs),
    }


def _onnx(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> bytes:
    """The ONNX file of a module; the first dimension of all inputs and outputs is the batch."""
    import onnx

    batch = torch.export.Dim("batch", min=1)
    shapes: Any = tuple({0: batch} for _ in inputs)
    if isinstance(module, ExportedStep):
        shapes = (shapes[0], shapes[1:])
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as reports:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            artifacts_dir=reports,
        )
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _pooling(side: int, grid: int) -> Tensor:
    """The matrix (grid * grid, side * side) of adaptive average pooling, for which ONNX has no operator."""
    cells = torch.eye(side * side).reshape(side * side, 1, side, side)
    return nn.functional.adaptive_avg_pool2d(cells, grid).flatten(1).T.contiguous()


def _readme(model: TrainedModel, state: Mapping[str, Tensor], constant: Sequence[str]) -> str:
    template = Template(
        _template("README.md.j2"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    text: str = template.render(model=model, state=state, constant=constant)
    return text


def _template(name: str) -> str:
    return (resources.files("pipeline.inference.onnx") / "templates" / name).read_text(encoding="utf-8")


def check_export(folder: Path) -> None:
    """Raise `ParamsError` without the packages of the extra, and as `check_replaceable` for the folder."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ParamsError(
            f"captioner export --onnx needs {error.name}; run `pip install -e '.[onnx]'` in the checkout"
        ) from error
    check_replaceable(folder)
