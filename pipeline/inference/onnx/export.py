"""A trained model as ONNX networks, for programs without torch.

The decoder is exported as its start and one step: a search in any language calls the step until the caption ends.

B pictures (or beams), S input side, R regions, C channels.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.decoders import Decoder
from pipeline.decoders.decoder import State
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ParamsError
from pipeline.files import write_bytes, write_json, write_text
from pipeline.inference.onnx.captioner import CONSENSUS, DESCRIPTION, ENCODER, KNOWN, SCHEMA, START, STEP

if TYPE_CHECKING:
    from pipeline.inference.captioner import Captioner

OPSET = 18


@dataclass(frozen=True)
class Exported:
    """A folder of ONNX networks."""

    folder: Path
    megabytes: float


class ExportedEncoder(nn.Module):
    """Pixels (B, S, S, 3) as they are in a picture, 0-255, to features (B, R, C).

    In float32; the features are rounded to float16 and back, as the decoder was trained with.
    """

    mean: Tensor
    std: Tensor
    pooling: Tensor

    def __init__(self, network: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.network = network.float().cpu()
        self.register_buffer("mean", torch.tensor(spec.transform.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(spec.transform.std).view(3, 1, 1) * 255)
        size = spec.transform.size
        with torch.no_grad():
            output = self._node(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        self._dimensions = output.dim()
        self._channels_last = output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]
        side = output.shape[2] if output.dim() == 4 else round((output.shape[1] - 1) ** 0.5)
        self.register_buffer("pooling", _pooling(side, spec.grid) if output.dim() > 2 else torch.empty(0))

    def forward(self, pixels: Tensor) -> Tensor:
        output = self._node(pixels).float()
        if self._dimensions == 2:  # (B, C): a fully connected layer
            regions = output.unsqueeze(1)
        else:
            if self._dimensions == 3:  # (B, 1 + T, C): a transformer's tokens, the class token first
                places = output[:, 1:]
            elif self._channels_last:  # (B, H, W, C)
                places = output.flatten(1, 2)
            else:  # (B, C, H, W)
                places = output.flatten(2).transpose(1, 2)
            regions = self.pooling @ places if len(self.pooling) else places
        return regions.to(torch.float16).to(torch.float32)

    def _node(self, pixels: Tensor) -> Tensor:
        batch = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        output: Tensor = self.network(batch)["layer"]
        return output


class ExportedStart(nn.Module):
    """Features (B, R, C) to what the decoder knows of the picture (B, H), and its state before the first word."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        state = self.decoder.start(features)
        # A clone: what is known may be a part of the state, and one tensor cannot be two outputs.
        return self.decoder.picture(state).clone(), *state.picture, *state.beam


class ExportedStep(nn.Module):
    """The latest tokens (B,) and the state, whose first `kept` parts belong to the picture, to log-probabilities
    (B, V), attention (B, R) if the decoder looks, and the other parts of the next state.

    One beam per picture: a search repeats the picture's parts for each beam. ONNX has no name for a size that is a
    multiple of another.
    """

    def __init__(self, decoder: Decoder, kept: int) -> None:
        super().__init__()
        self.decoder = decoder
        self._kept = kept

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        log_probs, following = self.decoder.step(State(state[: self._kept], state[self._kept :]), tokens)
        look = self.decoder.attention_weights(following)
        seen = () if look is None else (look.clone(),)
        return log_probs, *seen, *following.beam


def export_onnx(captioner: "Captioner", folder: Path, *, model_sha256: str | None = None) -> Exported:
    """Write encoder.onnx, start.onnx, step.onnx, captioner.json, a README and an example into `folder`, and
    consensus.safetensors if the model remembers its training captions.

    `model_sha256`, of the model file, lets a reader notice that it has changed since. Raises `ParamsError` without the
    packages of the extra, `DiskError`.
    """
    _require()
    from safetensors.numpy import save

    decoder = captioner.model.decoder.float().cpu().eval()
    encoder = ExportedEncoder(captioner.encoder.network, captioner.spec).eval()
    size = captioner.spec.transform.size
    features = torch.zeros(2, captioner.model.regions, captioner.model.channels)
    tokens = torch.ones(2, dtype=torch.long)
    with torch.no_grad():
        first = decoder.start(features)
        looks = decoder.attention_weights(decoder.step(first, tokens)[1]) is not None
    kept = [f"picture_{place}" for place in range(len(first.picture))]
    changing = [f"state_{place}" for place in range(len(first.beam))]
    # Clones: a decoder may begin with one tensor of zeros in several places, which the exporter takes for one input.
    parts = (part.clone() for part in (*first.picture, *first.beam))
    state = dict(zip([*kept, *changing], parts, strict=True))
    outputs = ["log_probs", *(["attention"] if looks else []), *(f"next_{name}" for name in changing)]
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    networks = {
        ENCODER: _network(encoder, (pixels,), ["pixels"], ["features"]),
        START: _network(ExportedStart(decoder), (features,), ["features"], [KNOWN, *state]),
        STEP: _network(ExportedStep(decoder, len(kept)), (tokens, *state.values()), ["tokens", *state], outputs),
    }
    remembered = save(captioner.consensus.arrays()) if captioner.consensus else None
    for name, content in networks.items():
        write_bytes(folder / name, content)
    if remembered:
        write_bytes(folder / CONSENSUS, remembered)
    else:
        (folder / CONSENSUS).unlink(missing_ok=True)
    write_json(
        folder / DESCRIPTION,
        {
            "schema": SCHEMA,
            "model_sha256": model_sha256,
            "consensus_sha256": remembered and hashlib.sha256(remembered).hexdigest(),
            "spec": captioner.spec.to_json(),
            "vocabulary": captioner.vocabulary.to_json(),
            "state": list(state),
            "kept": kept,
            "width": decoder.hidden,
            "attention": looks,
            "input": {
                "size": size,
                "shorter_side": captioner.spec.transform.shorter_side,
                "interpolation": captioner.spec.transform.interpolation,
            },
        },
    )
    write_text(folder / "README.md", _readme(captioner, state, kept))
    write_text(folder / "caption.py", (_texts() / "caption.py.txt").read_text(encoding="utf-8"))
    return Exported(folder, sum(map(len, networks.values())) / 1e6)


def _network(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> bytes:
    """The ONNX file of a module whose inputs and outputs all have the batch as their first dimension."""
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


def _readme(captioner: "Captioner", state: Mapping[str, Tensor], kept: Sequence[str]) -> str:
    rows = [f"| `{name}` | {' x '.join(('B', *map(str, part.shape[1:])))} |" for name, part in state.items()]
    values = {
        "WIDTH": captioner.model.decoder.hidden,
        "SIZE": captioner.spec.transform.size,
        "REGIONS": captioner.model.regions,
        "CHANNELS": captioner.model.channels,
        "TOKENS": len(captioner.vocabulary),
        "STATE": "\n".join(rows),
        "KEPT": ", ".join(f"`{name}`" for name in kept) or "none",
        "NETWORK": f"{captioner.spec.name} up to {captioner.spec.layer}",
        "PRECISION": captioner.spec.precision,
    }
    text: str = (_texts() / "README.md").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def _pooling(side: int, grid: int) -> Tensor:
    """The matrix (grid * grid, side * side) that averages a square of places to another, as adaptive pooling does, for
    which ONNX has no operator; empty where nothing is to be averaged."""
    if side == grid:
        return torch.empty(0)
    places = torch.eye(side * side).reshape(side * side, 1, side, side)
    return nn.functional.adaptive_avg_pool2d(places, grid).flatten(1).T.contiguous()


def _texts() -> Any:
    return resources.files("pipeline.onnx") / "texts"


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ParamsError(
            f"captioner export --onnx needs {error.name}, which is in an extra: pip install 'captioner[onnx]'"
        ) from error
