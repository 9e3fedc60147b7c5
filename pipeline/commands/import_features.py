"""`captioner import-features`: features of another program instead of those of the stage `extract`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, progress_bar, read_params_file, say
from pipeline.errors import ParamsError
from pipeline.wording import counted, shown_names

_SHOWN = 5


def import_features(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of .npz or .npy files, one per image; an HDF5 file; or an .npy array with --ids."),
    ],
    name: Annotated[
        str,
        typer.Option(help="Name of the encoder; a model accepts only features with the name that it was trained on."),
    ],
    ids: Annotated[
        Path | None,
        typer.Option(help="Image ids of an array's rows: .txt with one per line, a JSON list, or .npy."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Name of the array in .npz files, or of the dataset in an HDF5 file.")
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(min=1, help="Regions stored per image.", show_default="the most an image has"),
    ] = None,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Import features that another program computed, instead of the stage `extract`. Run `prepare` first."""
    from pipeline.stages.import_features import ImportOptions
    from pipeline.stages.import_features import import_features as run

    if not name.strip():
        raise ParamsError("--name: is empty; name the program or the network that computed the features")
    options = ImportOptions(source, name, ids, key, regions)
    with progress_bar("import-features") as progress:
        report = run(read_params_file(params), options, progress=progress)
    for image, reason in list(report.skipped.items())[:_SHOWN]:
        say(f"skipped: {image}: {reason}")
    if report.skipped:
        without = counted(len(report.skipped), "image has no features", "images have no features")
        say(f"import-features: {without} (see {paths.SKIPPED})")
    stored = counted(report.regions, "region")
    if report.extra:
        extra = counted(len(report.extra), "feature belongs", "features belong")
        say(f"import-features: {extra} to no image in {paths.IMAGES}: {shown_names(report.extra)}")
    if report.cut:
        cut = counted(report.cut, "image has", "images have")
        say(f"import-features: {cut} more than {stored}; only the first {report.regions} are stored")
    padded = "" if report.fewest_regions >= report.regions else f"{report.fewest_regions} to "
    say(
        f"import-features: {counted(report.images, 'image')} with {padded}{stored} of "
        f"{counted(report.channels, 'channel')} in {paths.FEATURES}; `dvc commit -f extract && dvc freeze extract` "
        "makes `dvc repro` keep them"
    )
