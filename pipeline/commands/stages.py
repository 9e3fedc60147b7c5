"""The stages of dvc.yaml as commands: read params.yaml, run the stage on the project's paths, say what came out."""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import (
    ParamsFile,
    announce_device,
    checkpoint_folder,
    hash_cache_file,
    progress_bar,
    read,
    say,
    store_folder,
    unspaced_warning,
)
from pipeline.errors import NumericError, ParamsError

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.stages.prepare import Prepared
    from pipeline.training.trainer import Epoch


def prepare(params: ParamsFile = paths.PARAMS) -> None:
    """Read a dataset's captions, find its pictures, and list what cannot be used."""
    from pipeline.stages.prepare import prepare as run

    given = read(params)
    with progress_bar("prepare") as progress:
        found = run(
            given.data,
            seed=given.seed,
            captions_out=paths.CAPTIONS,
            images_out=paths.IMAGES,
            skipped_out=paths.SKIPPED_ROWS,
            memory=hash_cache_file(),
            progress=progress,
        )
    if found.images != Path(given.data.images):
        say(
            f"warning: the pictures are not in {given.data.images} but in {found.images}; "
            "set params.data.images so that dvc notices when they change"
        )
    for line in describe(found, given.vocab.unit):
        say(line)


def describe(found: "Prepared", unit: str) -> Iterator[str]:
    """A dataset in words; the last line is its size."""
    for one in found.skipped[:5]:
        place = f"{one.file}, line {one.line}" if one.line else one.file
        yield f"skipped: {place}: {one.image or '(no name)'}: {one.reason}"
    if len(found.skipped) > 5:
        yield f"skipped: {len(found.skipped) - 5} more, all in {paths.SKIPPED_ROWS}"
    if found.saw:
        yield f"format: {found.format}: {found.saw}"
    yield from (f"note: {note}" for note in found.notes)
    if found.without_captions:
        yield f"note: {found.without_captions} pictures in {found.images} have no caption; they are not used"
    if found.copies:
        yield f"note: {found.copies} pictures are copies of another one in their split"
    known = ", ".join(f"{count} {split}" for split, count in found.known_captions.items() if count)
    if known:
        yield f"note: captions that also stand word for word in the train split: {known}"
    if found.share_without_spaces >= 0.1 and unit == "word":
        yield unspaced_warning(found.share_without_spaces)
    splits = ", ".join(f"{count} {split}" for split, count in found.pictures.items())
    yield (
        f"prepare: {sum(found.pictures.values())} images ({splits}), {found.captions} captions, "
        f"{len(found.skipped)} skipped, {found.hashed} hashed"
    )


class Engine(StrEnum):
    """What runs the encoder."""

    LOCAL = "local"
    RAY = "ray"


def extract(
    params: ParamsFile = paths.PARAMS,
    engine: Annotated[
        Engine, typer.Option("--engine", help="This machine with the feature store, or Ray into a folder of shards.")
    ] = Engine.LOCAL,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray: a running cluster's address; else one is started here.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="Ray: a .csv or .parquet with image, path[, sha256] instead of images.csv."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Ray: the folder of shards.")] = paths.FEATURES,
    shard_pictures: Annotated[
        int | None, typer.Option("--shard-pictures", min=1, help="Ray: pictures per shard; as many as fill 128 MiB.")
    ] = None,
) -> None:
    """Run the frozen encoder once over every picture that has no features yet."""
    if engine is Engine.RAY:
        _extract_on_ray(read(params), address, manifest, out, shard_pictures)
        return
    for_ray = {"--address": address, "--manifest": manifest, "--shard-pictures": shard_pictures}
    given_for_ray = [name for name, value in for_ray.items() if value is not None]
    if out != paths.FEATURES:
        given_for_ray.append("--out")
    if given_for_ray:
        raise ParamsError(f"{', '.join(given_for_ray)}: only with --engine ray")
    _extract_here(read(params))


def _extract_here(given: "Params") -> None:
    from pipeline.stages.extract import extract as run

    announce_device(given.run.device)
    with progress_bar("extract") as progress:
        done = run(
            given.encoder,
            given.run,
            seed=given.seed,
            max_skipped=given.data.max_skipped,
            images=paths.IMAGES,
            skipped=paths.SKIPPED_ROWS,
            features_out=paths.FEATURES,
            encoder_out=paths.ENCODER,
            skipped_out=paths.SKIPPED,
            store=store_folder(),
            progress=progress,
        )
    for image, reason in list(done.unreadable.items())[:5]:
        say(f"skipped: {image}: {reason}")
    bad = f", {len(done.unreadable)} unreadable (see {paths.SKIPPED})" if done.unreadable else ""
    say(
        f"extract: {done.pictures} images, {done.from_store} from the store, "
        f"{done.encoded} encoded in {done.seconds:.1f} s{bad}"
    )


def _extract_on_ray(
    given: "Params", address: str | None, manifest: Path | None, out: Path, shard_pictures: int | None
) -> None:
    from pipeline.stages.extract_on_ray import extract_on_ray as run

    with progress_bar("extract") as progress:
        done = run(
            given.encoder,
            given.run,
            seed=given.seed,
            max_skipped=given.data.max_skipped,
            manifest=manifest or paths.IMAGES,
            skipped=None if manifest else paths.SKIPPED_ROWS,
            features_out=out,
            encoder_out=paths.ENCODER,
            skipped_out=paths.SKIPPED,
            shard_pictures=shard_pictures,
            address=address,
            progress=progress,
        )
    for reason in done.remade:
        say(f"made anew: {reason}")
    bad = f", {done.unreadable} unreadable (see {paths.SKIPPED})" if done.unreadable else ""
    say(
        f"extract: {done.pictures} images, {done.from_shards} in finished shards, {done.encoded} encoded in "
        f"{done.seconds:.1f} s{bad}; {done.shards} shards in {out}"
    )


def vocab(params: ParamsFile = paths.PARAMS) -> None:
    """Count the words of the training captions."""
    from pipeline.stages.vocab import build_vocabulary

    built = build_vocabulary(read(params).vocab, captions=paths.CAPTIONS, vocabulary_out=paths.VOCABULARY)
    covered = ", ".join(f"{share:.1%} of {split}" for split, share in built.coverage.items())
    say(f"vocab: {built.tokens} tokens ({built.unit}s), which cover {covered}")


def train(params: ParamsFile = paths.PARAMS) -> None:
    """Train the decoder on the cached features, with one process or with those that `torchrun` starts."""
    from pipeline.allocator import keep_freed_memory
    from pipeline.stages.train import train as run
    from pipeline.training.distributed import joined

    given = read(params)
    keep_freed_memory()

    def show(epoch: "Epoch") -> None:
        total = given.train.epochs + given.train.scst.epochs
        learnt = f"reward {epoch.reward:5.1f}" if epoch.reward else f"loss {epoch.train_loss:.3f}"
        say(
            f"epoch {epoch.epoch:3d}/{total}  {learnt}  val {epoch.val_loss:.3f}  CIDEr-D {epoch.val_cider_d:5.1f}  "
            f"{epoch.tokens_per_second:,.0f} tokens/s  at most {(total - epoch.epoch) * epoch.seconds:.0f} s left"
        )

    def goes_on(epochs: int) -> None:
        say(f"train: goes on after epoch {epochs}, where a run was interrupted; until then:")

    with joined(os.environ, given.run.device) as processes:
        if processes.first:
            announce_device(given.run.device)
        if processes.first and processes.count > 1:
            say(f"train: {processes.count} processes, which share each batch of {given.train.batch_size} captions")
        try:
            done = run(
                given.train,
                given.decoder,
                given.run,
                seed=given.seed,
                captions=paths.CAPTIONS,
                features=paths.FEATURES,
                vocabulary=paths.VOCABULARY,
                encoder=paths.ENCODER,
                model_out=paths.MODEL,
                curve_out=paths.TRAINING,
                checkpoints=checkpoint_folder(),
                on_epoch=show if processes.first else lambda epoch: None,
                on_resume=goes_on if processes.first else lambda epochs: None,
                processes=processes,
            )
        except NumericError as error:
            if processes.first:
                raise
            raise typer.Exit(error.exit_code) from error  # all meet it in the same step, and the first one says it
    if not processes.first:
        return
    best, planned = done.trained.best, given.train.epochs + given.train.scst.epochs
    if done.trained.epochs < planned:
        say(
            f"train: ended after {done.trained.epochs} of {planned} epochs: the val CIDEr-D was no better for "
            f"{given.train.patience} (params.train.patience)"
        )
    say(
        f"train: {done.captions} captions of {done.pictures} images, {done.parameters:,} parameters; "
        f"best of {done.trained.epochs} epochs: {best.epoch}, val CIDEr-D {best.val_cider_d:.1f}"
    )
