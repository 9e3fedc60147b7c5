"""`captioner export`: writes a trained model as ONNX networks, or as one file that needs no download."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output_table import check_no_input
from pipeline.commands.runtime import ModelOption, refuse_address
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

    refuse_address(model)
    model = model or default_model()
    if self_contained:
        _check_model_output(self_contained, model)
    captioner = Captioner.load(model, device="cpu")
    say(f"model: {model}, {training_summary(captioner.trained_on)}")
    if self_contained:
        captioner.save(self_contained)
        size = self_contained.stat().st_size / 1e6
        say(f"export: {self_contained}, {size:.1f} MB, with the weights of {captioner.spec.name} inside")
    if onnx:
        from pipeline.files import sha256_of
        from pipeline.inference.onnx.export import export_onnx

        report = export_onnx(captioner, onnx, model_sha256=sha256_of(model_path(model)))
        say(f"export: {onnx}, {report.megabytes:.1f} MB; captioner predict --runtime onnx --model {onnx} photo.jpg")
        if captioner.spec.precision != "float32":
            say(
                f"warning: the model was trained on features in {captioner.spec.precision}, the export computes in "
                "float32: some captions may differ"
            )


def _check_model_output(path: Path, model: str) -> None:
    """Raise `ParamsError` when writing a model to `path` would replace its source, or a file that is no model."""
    from pipeline.files import check_writable
    from pipeline.inference.model_metadata import read_metadata

    if path.is_file():
        check_no_input("--self-contained", path, [model_path(model)])
        try:
            read_metadata(path)
        except ArtefactError as error:
            raise ParamsError(
                f"--self-contained {path}: exists and is not a model file of this version; name another file"
            ) from error
    check_writable(path)
