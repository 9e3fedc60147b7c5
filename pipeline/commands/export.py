"""`captioner export`: a trained model for programs without torch, or in one file for machines without a network."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.commands import image_inputs as sources
from pipeline.commands.terminal import say
from pipeline.errors import DataError, ParamsError


def export(
    onnx: Annotated[
        Path | None, typer.Option(help="Write ONNX networks, their description, a README and an example here.")
    ] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            help="Also an encoder in 8-bit integers, if captions of these pictures (a folder or pattern) stay the same."
        ),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of captions that must stay the same for --int8.")
    ] = 0.95,
    self_contained: Annotated[
        Path | None, typer.Option(help="Write the model file with the encoder's weights inside.")
    ] = None,
    model: Annotated[Path, typer.Option(help="The model file.")] = paths.MODEL,
) -> None:
    """Write a trained model in another form."""
    if onnx is None and self_contained is None:
        raise ParamsError("captioner export: say what to write: --onnx FOLDER, --self-contained FILE, or both")
    if int8 is not None and onnx is None:
        raise ParamsError("captioner export --int8: needs --onnx FOLDER, of which it is a part")
    calibrating = [Path(file) for file in sources.find([int8])] if int8 else []
    from pipeline.inference.captioner import Captioner

    captioner = Captioner.load(model, device="cpu")
    if self_contained:
        captioner.save(self_contained)
        size = self_contained.stat().st_size / 1e6
        say(f"export: {self_contained}, {size:.1f} MB, with the weights of {captioner.spec.name} inside")
    if onnx:
        from pipeline.files import sha256_of
        from pipeline.inference.onnx.export import export_onnx

        written = export_onnx(captioner, onnx, model_sha256=sha256_of(model))
        say(f"export: {onnx}, {written.megabytes:.1f} MB; captioner predict --runtime onnx --model {onnx} photo.jpg")
        if captioner.spec.precision != "float32":
            say(
                f"warning: the model was trained on features in {captioner.spec.precision}, the export computes in "
                "float32: a caption may differ now and then"
            )
    if onnx and calibrating:
        from pipeline.inference.onnx.quantisation import quantise_encoder

        result = quantise_encoder(onnx, calibrating, agreement=min_agreement)
        report = (
            f"{result.agreement:.1%} of {result.compared} captions are the same, "
            f"{result.speed:.2f} times as fast, {result.megabytes:.1f} MB"
        )
        if not result.kept:
            raise DataError(f"--int8: not written: {report}; asked for were {min_agreement:.1%} (--min-agreement)")
        say(f"export: {onnx / 'encoder-int8.onnx'}, for --runtime onnx-int8: {report}")
