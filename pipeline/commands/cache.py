"""`captioner cache`: what the feature store holds, whether it is sound, and less of it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import say, store_folder
from pipeline.errors import ArtefactError, ParamsError

if TYPE_CHECKING:
    from pipeline.features.store_inventory import StoredEncoder

app = typer.Typer(no_args_is_help=True, help="The feature store: what it holds, its soundness, and making it smaller.")
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Another folder than $CAPTIONER_CACHE's.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per encoder and line.")]


@app.command()
def show(store: StoreFolder = None, as_json: AsJson = False) -> None:
    """List the encoders whose rows are kept: pictures and bytes of each."""
    from pipeline.features.store_inventory import stored_encoders

    root = store or store_folder()
    found = stored_encoders(root)
    if as_json:
        for one in found:
            print(json.dumps(asdict(one)))
        return
    say(f"{root}: {len(found)} encoders, {_bytes(sum(one.bytes for one in found))}")
    for one in found:
        print(f"{one.digest[:12]}  {one.pictures:9,} pictures  {_bytes(one.bytes):>8}  {_described(one)}")


@app.command()
def verify(
    digests: Annotated[list[str] | None, typer.Argument(help="Encoders, by the start of the digest; all.")] = None,
    store: StoreFolder = None,
) -> None:
    """Read every row and compare its checksum. Damaged rows are encoded again by the next run that needs them."""
    from pipeline.features.store_inventory import find, stored_encoders
    from pipeline.features.store_inventory import verify as check

    root = store or store_folder()
    chosen = [find(root, one) for one in digests] if digests else stored_encoders(root)
    damaged = 0
    for one in chosen:
        found = check(root, one.digest)
        damaged += found.damaged + len(found.unreadable_files)
        print(f"{one.digest[:12]}  {found.sound:9,} sound  {found.damaged:9,} damaged  {_described(one)}")
        for path in found.unreadable_files:
            say(f"damaged: {path}: not a whole file of this store; its rows are encoded again when needed")
    if damaged:
        raise ArtefactError(f"{root}: damaged rows; `dvc repro -f extract` encodes those in use again")


@app.command()
def prune(
    digests: Annotated[list[str] | None, typer.Argument(help="Encoders to forget, by the start of the digest.")] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Forget the pictures that the dataset of this folder does not have.")
    ] = False,
    store: StoreFolder = None,
) -> None:
    """Make the store smaller. Nothing is lost but time: what is needed again is encoded again."""
    from pipeline.datasets.tables import read_images
    from pipeline.features.store import keys_of
    from pipeline.features.store_inventory import find, keep_only, remove, stored_encoders

    if bool(digests) == unused:
        raise ParamsError("captioner cache prune: name encoders, or give --unused")
    root = store or store_folder()
    for one in [find(root, digest) for digest in digests or ()]:
        remove(root, one.digest)
        print(f"{one.digest[:12]}  {one.pictures:9,} pictures forgotten  {_described(one)}")
    if unused:
        used = keys_of(row.sha256 for row in read_images(paths.IMAGES))
        for one in stored_encoders(root):
            gone = keep_only(root, one.digest, used) if one.spec else 0
            if one.spec and gone == one.pictures:
                remove(root, one.digest)  # its description too
            print(f"{one.digest[:12]}  {gone:9,} of {one.pictures:,} pictures forgotten  {_described(one)}")


def _described(one: "StoredEncoder") -> str:
    spec = one.spec
    if spec is None:
        return "of another version of this program, or damaged: delete its folder by hand"
    return (
        f"{spec.name} ({spec.weights}) at {spec.layer}, {spec.grid} x {spec.grid}, {spec.transform.size} pixels, "
        f"{spec.precision}; {one.engine}"
    )


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
