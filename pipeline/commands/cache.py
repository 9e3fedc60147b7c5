"""`captioner cache`: list, verify and prune the feature store."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.folders import store_folder
from pipeline.commands.terminal import say, show, show_json
from pipeline.errors import ArtefactError, ParamsError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.features.store_inventory import StoredEncoder

app = typer.Typer(no_args_is_help=True, help="List, verify and prune the feature store.")
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store.", show_default="$CAPTIONER_CACHE, else .cache/features"),
]


@app.command("show")
def show_encoders(
    store: StoreFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per encoder.")] = False,
) -> None:
    """List the encoders with stored features, and the number of images and bytes of each."""
    from rich.filesize import decimal

    from pipeline.features.store_inventory import stored_encoders

    root = store or store_folder()
    encoders = stored_encoders(root)
    if as_json:
        for encoder in encoders:
            show_json(asdict(encoder))
        return
    say(f"{root}: {counted(len(encoders), 'encoder')}, {decimal(sum(encoder.bytes for encoder in encoders))}")
    for encoder in encoders:
        size = decimal(encoder.bytes)
        show(f"{encoder.digest[:12]}  {counted(encoder.images, 'image'):>16}  {size:>8}  {_describe(encoder)}")


@app.command()
def verify(
    digests: Annotated[
        list[str] | None, typer.Argument(help="Prefixes of encoder digests.", show_default="all")
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Read every row and compare its checksum. The next run that needs a damaged row encodes its image again."""
    from pipeline.features.store_inventory import find_encoder, stored_encoders, verify_encoder

    root = store or store_folder()
    encoders = [find_encoder(root, digest) for digest in digests] if digests else stored_encoders(root)
    damaged = 0
    for encoder in encoders:
        rows, parts = verify_encoder(root, encoder.digest)
        damaged += rows + len(parts)
        counts = f"{encoder.images - rows:9,} intact  {rows:9,} damaged"
        show(f"{encoder.digest[:12]}  {counts}  {_describe(encoder)}")
        for path in parts:
            say(f"damaged: {path}: not a complete part; delete it, and its images are encoded again when needed")
    if damaged:
        raise ArtefactError(f"{root}: damaged rows; `dvc repro -f extract` encodes the images in use again")


@app.command()
def prune(
    digests: Annotated[list[str] | None, typer.Argument(help="Prefixes of the digests of encoders to delete.")] = None,
    unused: Annotated[
        bool,
        typer.Option("--unused", help="Delete the features of images that this folder's dataset does not contain."),
    ] = False,
    store: StoreFolder = None,
) -> None:
    """Delete features from the store. Images that are needed again are encoded again."""
    from pipeline.datasets.tables import read_images
    from pipeline.features.store_inventory import find_encoder, keep_images, remove_encoder, stored_encoders

    if bool(digests) == unused:
        raise ParamsError("captioner cache prune: name encoders, or use --unused")
    root = store or store_folder()
    for encoder in dict.fromkeys(find_encoder(root, digest) for digest in digests or ()):  # each once
        remove_encoder(root, encoder.digest)
        show(f"{encoder.digest[:12]}  {counted(encoder.images, 'image'):>16} deleted  {_describe(encoder)}")
    if unused:
        used = {row.sha256 for row in read_images(paths.IMAGES)}
        for encoder in stored_encoders(root):
            deleted = keep_images(root, encoder.digest, used) if encoder.spec else 0
            if encoder.spec and deleted == encoder.images:
                remove_encoder(root, encoder.digest)
            images = counted(encoder.images, "image")
            show(f"{encoder.digest[:12]}  {deleted:9,} of {images} deleted  {_describe(encoder)}")


def _describe(encoder: "StoredEncoder") -> str:
    spec = encoder.spec
    if spec is None:
        return "of another version of this program, or damaged: delete its folder by hand"
    return (
        f"{spec.name} ({spec.weights}) at {spec.layer}, {spec.grid} x {spec.grid}, {spec.preprocessing.size} pixels, "
        f"{spec.precision}; {encoder.engine}"
    )
