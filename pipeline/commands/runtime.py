"""The options of `predict` and `serve` that select the model and what computes it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import say
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.inference.base_captioner import BaseCaptioner

ONNX_FOLDER = Path("models/onnx")


class Runtime(StrEnum):
    """What computes the captions."""

    torch = "torch"
    onnx = "onnx"


ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help=f"Model file ({paths.MODEL}), or exported folder ({ONNX_FOLDER})."),
]
RuntimeOption = Annotated[Runtime, typer.Option(help="onnx starts faster; it needs an exported model, but no torch.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; torch only.")]


def load_captioner(model: Path | None, runtime: Runtime, device: str, *, encoder: bool = True) -> "BaseCaptioner":
    """Load a model; `encoder=False` leaves out the encoder of a torch model.

    Raises `DataError`, `ArtefactError`, `ParamsError`.
    """
    if runtime is Runtime.onnx:
        return _load_onnx(model)
    if model is not None and model.is_dir():
        raise ParamsError(f"--model {model}: a folder; add --runtime onnx to read an exported model")
    from pipeline.inference.captioner import Captioner

    return Captioner.load(model or paths.MODEL, device=device, encoder=encoder)


def _load_onnx(model: Path | None) -> "BaseCaptioner":
    """The exported model, with a warning when the default export is older than the model file."""
    from pipeline.files import sha256_of
    from pipeline.inference.onnx.captioner import OnnxCaptioner

    captioner = OnnxCaptioner.load(model or ONNX_FOLDER)
    exported_from = captioner.model_sha256
    if model is None and exported_from and paths.MODEL.is_file() and sha256_of(paths.MODEL) != exported_from:
        say(f"warning: {ONNX_FOLDER} was not exported from the current {paths.MODEL}; export again")
    return captioner
