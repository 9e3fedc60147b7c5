"""`captioner export`: writes a trained model as ONNX networks, or as one file that needs no download."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output_table import check_output
from pipeline.commands.runtime import ModelOption
from pipeline.commands.terminal import say
from pipeline.errors import ArtefactError, ParamsError
from pipeline.starter import default_model, model_path


def export(
    onnx: Annotated[
        Path | None, typer.Option(help="Folder for ONNX networks, their description, a README and an example.")
    ] = None,
    self_contained: Annotated[
        Path | None, typer.Option(help="Model file to write with the encoder's weights inside.")
    ] = None,
    model: ModelOption = None,
) -> None:
    """Export a trained model, for programs without torch or machines without a network."""
    if onnx is None and self_contained is None:
        raise ParamsError("captioner export: nothing to write; give --onnx FOLDER, --self-contained FILE, or both")
    from pipeline.inference.captioner import Captioner
    from pipeline.inference.model_metadata import training_summary

    model = model or default_model()
    if onnx:
        from pipeline.inference.onnx.export import check_export, export_onnx

        check_export(onnx)
    if self_contained:
        check_output(
            "--self-contained", self_contained, "a model file of this version", _is_model_file, [model_path(model)]
        )
    if onnx and self_contained:
        folder, file = onnx.resolve(), self_contained.resolve()
        if folder.is_relative_to(file) or file.is_relative_to(folder):
            raise ParamsError(f"--onnx {onnx} --self-contained {self_contained}: one is inside the other; move one out")
    captioner = Captioner.load(model, device="cpu")
    say(f"model: {model}, {training_summary(captioner.trained_on)}")
    if self_contained:
        captioner.save(self_contained)
        size = self_contained.stat().st_size / 1e6
        say(f"export: {self_contained}, {size:.1f} MB, with the weights of {captioner.spec.name} inside")
    if onnx:
        from pipeline.files import sha256_of

        megabytes = export_onnx(captioner, onnx, model_sha256=sha256_of(model_path(model)))
        say(f"export: {onnx}, {megabytes:.1f} MB; captioner predict --runtime onnx --model {onnx} photo.jpg")
        if captioner.spec.precision != "float32":
            say(
                f"warning: the model was trained on features in {captioner.spec.precision}, the export computes in "
                "float32: some captions may differ"
            )


def _is_model_file(path: Path) -> bool:
    from pipeline.inference.model_metadata import read_metadata

    try:
        read_metadata(path)
    except ArtefactError:
        return False
    return True
