"""`captioner report`: the stage of dvc.yaml that writes the page and the model card."""

from contextlib import suppress

from pipeline import paths
from pipeline.commands.terminal import progress_bar, say
from pipeline.errors import ArtefactError
from pipeline.wording import counted


def report() -> None:
    """Write the report and the model card from the results of `captioner score`."""
    from pipeline.stages.report import ReportFiles
    from pipeline.stages.report import report as run

    with progress_bar("report") as progress:
        summary = run(ReportFiles(), progress=progress)
    _warn_of_another_model(summary.tensors_sha256)
    captions, images = counted(summary.images, "caption"), counted(summary.thumbnails, "image")
    say(f"report: {captions}, {images}; open {paths.REPORT} in a browser")


def _warn_of_another_model(tensors_sha256: str | None) -> None:
    """Print a warning when the model file does not have the tensors that were scored."""
    from pipeline.inference.model_metadata import read_metadata

    if tensors_sha256 is None or not paths.MODEL.is_file():
        return
    with suppress(ArtefactError):  # the report does not need the model file
        if read_metadata(paths.MODEL).tensors_sha256 != tensors_sha256:
            say(
                f"warning: {paths.EVALUATION} is of another model than {paths.MODEL}; run `dvc repro`, or "
                "`captioner score` first"
            )
