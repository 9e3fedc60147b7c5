"""`captioner extract`: the stage of dvc.yaml, on this machine or on a Ray cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline import paths
from pipeline.commands.folders import store_folder
from pipeline.commands.terminal import ParamsFile, announce_device, progress_bar, read_params_file, say
from pipeline.errors import ParamsError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.params import Params


def extract(
    params: ParamsFile = paths.PARAMS,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this machine, writes features.h5. ray: a Ray cluster, writes shards."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray: address of a running cluster.", show_default="one is started here"),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Ray: a .csv or .parquet with columns image, path and optionally sha256.",
            show_default=str(paths.IMAGES),
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Ray: the folder of shards.")] = paths.FEATURES,
    shard_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ray: images per shard.",
            show_default="as many as fit 128 MiB of features and 256 MiB of pixels",
        ),
    ] = None,
) -> None:
    """Extract the features of all images with the frozen encoder."""
    ray_options = {"--address": address, "--manifest": manifest, "--shard-images": shard_images}
    given = [name for name, value in ray_options.items() if value is not None]
    if out != paths.FEATURES:
        given.append("--out")
    if given and engine != "ray":
        raise ParamsError(f"{', '.join(given)}: only with --engine ray")
    values = read_params_file(params)
    from pipeline.stages.extract import ExtractFiles

    if engine == "ray":
        from pipeline.stages.extract_on_ray import extract_on_ray

        files = ExtractFiles(features=out)
        if manifest is not None:
            files = ExtractFiles(images=manifest, skipped_by_prepare=None, features=out)
        with progress_bar("extract") as progress:
            report = extract_on_ray(files, values, address=address, shard_images=shard_images, progress=progress)
        earlier, again = "in finished shards", f"delete {out}/shards/*.skipped.csv and run the same command"
    else:
        from pipeline.stages.extract import extract as run

        announce_device(values.run.device)
        with progress_bar("extract") as progress:
            report = run(ExtractFiles(), values, store=store_folder(), progress=progress)
        earlier, again = "from the store", "run `dvc repro`"
    _note_weights_file(values)
    for image, reason in list(report.unreadable.items())[:5]:
        say(f"skipped: {image}: {reason}")
    for split in report.lost_splits:
        say(
            f"warning: no image of the {split} split can be decoded; repair or replace the images that {paths.SKIPPED} "
            f"lists, then {again}"
        )
    skipped = f", {len(report.unreadable):,} skipped (see {paths.SKIPPED})" if report.unreadable else ""
    say(
        f"extract: {counted(report.images, 'image')}, {report.from_store:,} {earlier}, "
        f"{report.encoded:,} encoded in {report.seconds:.1f} s{skipped}"
    )


def _note_weights_file(params: "Params") -> None:
    """Print a note when the encoder's weights are a file that DVC does not track."""
    weights, stages = params.encoder.weights, Path("dvc.yaml")
    if Path(weights).is_file() and stages.is_file() and weights not in stages.read_text("utf-8"):
        say(
            f"note: {weights}: `dvc repro` does not notice when the content of this file changes; add it to the deps "
            f"of the stage extract in {stages}"
        )
