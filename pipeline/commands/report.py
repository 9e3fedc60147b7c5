"""`captioner report`: the stage of dvc.yaml that writes the page and the model card."""

from pipeline import paths
from pipeline.commands.terminal import progress_bar, say
from pipeline.wording import counted


def report() -> None:
    """Write the report and the model card from the results of `captioner score`."""
    from pipeline.stages.report import ReportFiles
    from pipeline.stages.report import report as run

    with progress_bar("report") as progress:
        summary = run(ReportFiles(), progress=progress)
    captions, images = counted(summary.images, "caption"), counted(summary.thumbnails, "image")
    say(f"report: {captions}, {images}; open {paths.REPORT} in a browser")
