"""The options of `predict`, `serve` and `export` that select the model and what computes it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline import paths
from pipeline.commands.terminal import say
from pipeline.errors import ParamsError
from pipeline.starter import STARTER, default_model

if TYPE_CHECKING:
    from pipeline.inference.base_captioner import BaseCaptioner

ONNX_FOLDER = Path("models/onnx")
Runtime = Literal["torch", "onnx"]
"""What computes the captions."""
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=f"Model file, or {STARTER}, the model that comes with the program.",
        show_default=f"{paths.MODEL} if there is one, else {STARTER}",
    ),
]
RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        help=f"onnx starts faster and needs no torch; it reads an exported model, {ONNX_FOLDER} or --model FOLDER."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; torch only.")]


def load_captioner(model: str | None, runtime: Runtime, device: str, *, encoder: bool = True) -> "BaseCaptioner":
    """Load a model and print what it was trained on; `encoder=False` leaves out the encoder of a torch model.

    Raises `ArtefactError`, `ParamsError`.
    """
    from pipeline.inference.model_metadata import training_summary

    captioner: BaseCaptioner
    if runtime == "onnx":
        if device not in ("auto", "cpu"):
            raise ParamsError(f"--device {device}: the onnx runtime computes on the CPU; leave it out")
        shown, captioner = model or str(ONNX_FOLDER), _load_onnx(model)
    else:
        from pipeline.inference.captioner import Captioner

        shown = model or default_model()
        captioner = Captioner.load(shown, device=device, encoder=encoder)
    say(f"model: {shown}, {training_summary(captioner.trained_on)}")
    return captioner


def _load_onnx(model: str | None) -> "BaseCaptioner":
    """The exported model, with a warning when the default export is older than the model file."""
    if model == STARTER:
        raise ParamsError(
            f"--runtime onnx --model {STARTER}: needs an exported folder; `captioner export --model {STARTER} "
            "--onnx FOLDER` writes one"
        )
    from pipeline.files import sha256_of
    from pipeline.inference.onnx.captioner import OnnxCaptioner

    captioner = OnnxCaptioner.load(model or ONNX_FOLDER)
    exported_from = captioner.model_sha256
    if model is None and exported_from and paths.MODEL.is_file() and sha256_of(paths.MODEL) != exported_from:
        say(f"warning: {ONNX_FOLDER} was not exported from the current {paths.MODEL}; export again")
    return captioner
