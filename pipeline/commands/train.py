"""`captioner train`: runs the train stage, in one process or in the processes that `torchrun` started."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from pipeline import paths
from pipeline.commands.folders import checkpoint_folder
from pipeline.commands.notes import without_features_warning
from pipeline.commands.terminal import ParamsFile, announce_device, read_params_file, say
from pipeline.errors import NumericError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.params import TrainParams
    from pipeline.stages.train import TrainReport
    from pipeline.training.history import EpochMetrics


def train(params: ParamsFile = paths.PARAMS) -> None:
    """Train the decoder on the cached features; several GPUs: `torchrun --nproc-per-node=2 -m pipeline train`."""
    from pipeline.stages.train import TrainFiles
    from pipeline.stages.train import train as run
    from pipeline.training.distributed import process_group

    given = read_params_file(params)
    planned = given.train.epochs + given.train.scst.epochs

    def show_epoch(metrics: "EpochMetrics") -> None:
        learned = f"reward {metrics.reward:5.1f}" if metrics.reward else f"loss {metrics.train_loss:.3f}"
        say(
            f"epoch {metrics.epoch:3d}/{planned}  {learned}  val loss {metrics.val_loss:.3f}  "
            f"CIDEr-D {metrics.val_cider_d:5.1f}  {metrics.tokens_per_second:,.0f} tokens/s  "
            f"about {(planned - metrics.epoch) * metrics.seconds:.0f} s left"
        )

    with process_group(given.run.device) as processes:
        files = TrainFiles(checkpoints=checkpoint_folder())
        if processes.rank > 0:
            try:
                run(files, given, processes=processes)
            except NumericError as error:  # every process raises it in the same step; the first one reports it
                raise typer.Exit(error.exit_code) from error
            return
        announce_device(given.run.device)
        if processes.count > 1:
            say(f"train: {processes.count} processes share each batch of {given.train.batch_size} captions")
        report = run(
            files,
            given,
            on_epoch=show_epoch,
            on_resume=lambda epochs: say(f"train: resumes an interrupted run after epoch {epochs}; its epochs were:"),
            on_missing=lambda split, images: say(without_features_warning(split, images)),
            processes=processes,
        )
    say(*_summary(report, given.train))


def _summary(report: "TrainReport", params: "TrainParams") -> Iterator[str]:
    from pipeline.inference.familiarity import MIN_IMAGES as MIN_FAMILIARITY
    from pipeline.training.validation import MIN_IMAGES

    criterion = "val CIDEr-D" if report.by_score else "val loss"
    if report.known_tokens is not None:
        yield (
            f"train: started from {params.init_from}, which has {report.known_tokens:,} of the {report.tokens:,} tokens"
            + (f"; it had {_validation(report.start)}" if report.start else "")
        )
    if report.start_is_best:
        yield f"warning: no epoch has a better {criterion} than the model that training started from"
    before = report.cross_entropy_epochs
    for phase, epochs, planned in (
        ("cross-entropy", before, params.epochs),
        ("self-critical", report.epochs - before, params.scst.epochs),
    ):
        if epochs < planned:
            yield (
                f"train: early stopping after {epochs} of {planned} {phase} epochs: no better {criterion} for "
                f"{counted(params.patience, 'epoch')} (params.train.patience)"
            )
    if not report.by_score:
        yield (
            f"note: val loss chose the epoch, because the val split has {counted(report.val_images, 'image')}: the "
            f"CIDEr-D of fewer than {MIN_IMAGES} depends on chance"
            + ("; val loss rises in self-critical epochs, so it may choose none of them" if params.scst.epochs else "")
        )
    if min(report.images, report.val_images) < MIN_FAMILIARITY:
        yield f"note: fewer than {MIN_FAMILIARITY} train or val images: captions will have no familiarity"
    if report.cut:
        cut = counted(report.cut, "training caption was", "training captions were")
        yield f"train: {cut} cut to {counted(report.max_length, 'token')} (params.vocab.max_length)"
    yield (
        f"train: {counted(report.captions, 'caption')} of {counted(report.images, 'image')}, "
        f"{report.parameters:,} parameters; best of {counted(report.epochs, 'epoch')} by {criterion}: "
        f"{report.best.epoch}, {_validation((report.best.val_cider_d, report.best.val_loss))}"
    )
    if report.mean and report.mean_is_saved:
        yield f"train: the model is the mean of the {report.averaged} best epochs, {_validation(report.mean)}"
    elif report.mean:
        yield (
            f"note: the mean of the {report.averaged} best epochs is worse, {_validation(report.mean)}: the model is "
            f"epoch {report.best.epoch} alone"
        )


def _validation(scores: tuple[float, float]) -> str:
    return f"val CIDEr-D {scores[0]:.1f}, val loss {scores[1]:.3f}"
