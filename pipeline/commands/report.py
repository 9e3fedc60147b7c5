"""`captioner report`: the stage of dvc.yaml that writes the page and the model card."""

from pipeline import paths
from pipeline.commands.terminal import progress_bar, say


def report() -> None:
    """Write the report and the model card from the results of `captioner score`."""
    from pipeline.stages.report import ReportFiles
    from pipeline.stages.report import report as run

    with progress_bar("report") as progress:
        summary = run(ReportFiles(), progress=progress)
    say(f"report: {summary.images:,} captions, {summary.thumbnails:,} images; open {paths.REPORT} in a browser")
