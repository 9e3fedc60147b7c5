"""Inspecting a feature store: list its contents, verify its rows and delete some of them."""

import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError, DataError, DiskError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.features.store import SPEC_FILE, FeatureStore, parts_of

_DIGEST = re.compile("[0-9a-f]{64}")
"""The name of a folder of the store. Other folders beside them are left alone."""


@dataclass(frozen=True)
class StoredEncoder:
    """A folder of the store: the features of one encoder, computed by one engine."""

    digest: str
    """Name of the folder."""
    spec: EncoderSpec | None
    """None for a folder of another version, or a damaged one."""
    engine: str
    images: int
    bytes: int
    """On disk."""


def stored_encoders(root: Path) -> list[StoredEncoder]:
    """Return the encoders of the store in folder `root`, by digest. Raises `DiskError` for a file."""
    if root.is_file():
        raise DiskError(f"{root}: a file in the place of the feature store; name a folder")
    found = []
    for folder in sorted(path for path in root.glob("*") if _DIGEST.fullmatch(path.name) and path.is_dir()):
        store = _open_store(folder)
        size = sum(path.lstat().st_size for path in folder.iterdir() if not path.name.startswith("."))
        if store:
            found.append(StoredEncoder(folder.name, store.spec, store.engine, len(store.keys()), size))
        else:
            found.append(StoredEncoder(folder.name, None, "unknown", 0, size))
    return found


def find_encoder(root: Path, prefix: str) -> StoredEncoder:
    """Return the encoder whose digest begins with `prefix`.

    Raises `DataError` unless there is exactly one, `ParamsError` for an empty prefix.
    """
    if not prefix:
        raise ParamsError("an empty digest names no encoder; `captioner cache show` lists them")
    matching = [encoder for encoder in stored_encoders(root) if encoder.digest.startswith(prefix)]
    if len(matching) != 1:
        raise DataError(
            f"{root}: {len(matching) or 'no'} encoders begin with {prefix!r}; `captioner cache show` lists them"
        )
    return matching[0]


def verify_encoder(root: Path, digest: str) -> tuple[int, list[Path]]:
    """Read the newest row of each image and compare its crc32: the row that a run would use.

    Returns the number of damaged rows, and the parts that cannot be read at all.
    """
    store = _open_store(root / digest)
    return (len(store.damaged(store.keys())), store.damaged_parts) if store else (0, [])


def remove_encoder(root: Path, digest: str) -> None:
    """Delete an encoder's features. Raises `DiskError` when a run is filling them."""
    with _locked(root / digest):
        for path in (*parts_of(root / digest), root / digest / SPEC_FILE):
            path.unlink(missing_ok=True)
    shutil.rmtree(root / digest, ignore_errors=True)


def keep_images(root: Path, digest: str, keys: Collection[str]) -> int:
    """Delete an encoder's features of all images but `keys`, hex sha256; return the number of deleted rows.

    The remaining rows are written to new parts before the old ones are deleted. Raises `DiskError`.
    """
    with _locked(root / digest) as store:
        stored = store.keys()
        kept = [key for key in stored if key in keys]
        if len(kept) == len(stored):
            return 0
        old = parts_of(store.folder)
        damaged = set(store.damaged(kept))
        kept = [key for key in kept if key not in damaged]
        with store.filling(len(kept)):
            for key in kept:
                store.add([key], store.read([key]))
        for path in old:
            path.unlink()
        return len(stored) - len(kept)


@contextmanager
def _locked(folder: Path) -> Iterator[FeatureStore]:
    store = _open_store(folder)
    if not store:
        raise ArtefactError(f"{folder}: not a folder of this version's feature store; delete it by hand")
    with store.locked():
        yield store


def _open_store(folder: Path) -> FeatureStore | None:
    """The store in a folder; None for a folder of another version, or a damaged one."""
    try:
        content = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
        spec, engine = EncoderSpec.from_json(json.dumps(content["spec"])), str(content["engine"])
    except (OSError, ValueError, KeyError, TypeError, ArtefactError):
        return None
    store = FeatureStore(folder.parent, spec, engine, _shape_of_rows(folder))
    if store.folder != folder:
        return None
    store.load()
    return store


def _shape_of_rows(folder: Path) -> tuple[int, int]:
    """Regions and channels of the first part that can be read; 1, 1 without any."""
    for path in parts_of(folder):
        with suppress(CaptionerError):
            part = FeatureFile.open(path)
            return part.regions, part.channels
    return 1, 1
