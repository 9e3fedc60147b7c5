"""`captioner import-features`: features of another program instead of those of the stage `extract`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, progress_bar, read, say

_SHOWN = 5


def import_features(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of .npz or .npy files, one per image; HDF5 file; or one .npy array with --ids."),
    ],
    name: Annotated[str, typer.Option("--name", help="What computed the features; models are bound to this name.")],
    ids: Annotated[
        Path | None, typer.Option("--ids", help="Image ids of an array's rows: .txt with one per line, .json or .npy.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Name of the array in .npz files, or of the dataset in an HDF5 file.")
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option("--regions", min=1, help="Regions stored per image.", show_default="the most an image has"),
    ] = None,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Import features that another program computed, in the place of `extract`. Run `prepare` first."""
    from pipeline.stages.import_features import ImportFiles, ImportOptions
    from pipeline.stages.import_features import import_features as run

    options = ImportOptions(source, name, ids, key, regions)
    with progress_bar("import-features") as progress:
        report = run(ImportFiles(), read(params), options, progress=progress)
    for image, reason in list(report.skipped.items())[:_SHOWN]:
        say(f"skipped: {image}: {reason}")
    if report.skipped:
        say(f"import-features: {len(report.skipped)} images have no features (see {paths.SKIPPED})")
    if report.extra:
        shown = ", ".join(report.extra[:_SHOWN]) + (", ..." if len(report.extra) > _SHOWN else "")
        say(f"import-features: {len(report.extra)} features belong to no image in {paths.IMAGES}: {shown}")
    if report.cut:
        say(f"import-features: {report.cut} images have more than {report.regions} regions; the first ones are stored")
    padded = "" if report.fewest_regions >= report.regions else f"{report.fewest_regions} to "
    say(
        f"import-features: {report.images} images with {padded}{report.regions} regions of {report.channels} channels "
        f"in {paths.FEATURES}; `dvc commit -f extract && dvc freeze extract` makes `dvc repro` keep them"
    )
