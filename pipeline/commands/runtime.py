"""Which model answers, and what computes it: the options that `predict` and `serve` share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    onnx_int8 = "onnx-int8"


ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help=f"The model file ({paths.MODEL}), or an exported folder ({ONNX_FOLDER})."),
]
RuntimeOption = Annotated[Runtime, typer.Option(help="onnx starts sooner: it needs an exported model, and no torch.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps (torch only).")]


def load(model: Path | None, runtime: Runtime, device: str) -> "BaseCaptioner[Any]":
    """Raises `DataError`, `ArtefactError`, `ParamsError`."""
    if runtime is not Runtime.torch:
        from pipeline.inference.onnx.captioner import OnnxCaptioner

        captioner = OnnxCaptioner.load(model or ONNX_FOLDER, int8=runtime is Runtime.onnx_int8)
        if model is None and captioner.model_sha256 and paths.MODEL.is_file():
            from pipeline.files import sha256_of

            if sha256_of(paths.MODEL) != captioner.model_sha256:
                say(f"warning: {ONNX_FOLDER} was exported from another model than {paths.MODEL}; export again")
        return captioner
    if model is not None and model.is_dir():
        raise ParamsError(f"{model}: a folder; for an exported one add --runtime onnx")
    from pipeline.inference.captioner import Captioner

    return Captioner.load(model or paths.MODEL, device=device)
