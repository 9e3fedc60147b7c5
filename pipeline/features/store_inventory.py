"""Inspecting a feature store: list its contents, verify its rows and delete some of them."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, DiskError, ParamsError
from pipeline.features.store import SPEC_FILE, FeatureStore
from pipeline.features.store_segment import Segment, segments_of


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
    """On disk, including rows that an interrupted run did not fill."""


@dataclass(frozen=True)
class VerifyReport:
    """Result of reading every row of one encoder."""

    digest: str
    intact: int
    damaged: int
    """The next run that needs these rows encodes them again."""
    unreadable_files: tuple[Path, ...]


def stored_encoders(root: Path) -> list[StoredEncoder]:
    """Return the encoders of the store in folder `root`, by digest. Raises `DiskError` for a file."""
    if root.is_file():
        raise DiskError(f"{root}: a file in the place of the feature store; name a folder")
    found = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        spec, engine = _read_spec(folder)
        files = segments_of(folder)
        segments = [Segment.open(path, folder.name) for path in files]
        keys = {segment.keys[row] for segment in segments if segment for row in segment.done()}
        size = sum(path.stat().st_size for path in files)
        found.append(StoredEncoder(folder.name, spec, engine, len(keys), size))
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


def verify_encoder(root: Path, digest: str) -> VerifyReport:
    """Read the newest row of each image and compare its crc32: the row that a run would use."""
    segments = {path: Segment.open(path, digest) for path in segments_of(root / digest)}
    rows = {segment.keys[row]: (segment, row) for segment in segments.values() if segment for row in segment.done()}
    intact = sum(segment.read(row) is not None for segment, row in rows.values())
    unreadable = tuple(path for path, segment in segments.items() if segment is None)
    return VerifyReport(digest, intact, len(rows) - intact, unreadable)


def remove_encoder(root: Path, digest: str) -> None:
    """Delete an encoder's features. Raises `DiskError` when a run is filling them."""
    with _locked(root, digest):
        for path in (*segments_of(root / digest), root / digest / SPEC_FILE):
            path.unlink(missing_ok=True)
    shutil.rmtree(root / digest, ignore_errors=True)


def keep_images(root: Path, digest: str, keys: Collection[str]) -> int:
    """Delete an encoder's features of all images but `keys`, hex sha256; return the number of deleted rows.

    The remaining rows are written to a new segment before the old ones are deleted. Raises `DiskError`.
    """
    with _locked(root, digest) as store:
        stored = store.keys()
        kept = [key for key in stored if key in keys]
        if len(kept) == len(stored):
            return 0
        old = segments_of(store.folder)
        damaged = set(store.damaged(kept))
        kept = [key for key in kept if key not in damaged]
        if kept:
            with store.new_segment(kept) as segment:
                for row, key in enumerate(kept):
                    segment.add([row], store.read([key]))
        for path in old:
            path.unlink()
        return len(stored) - len(kept)


@contextmanager
def _locked(root: Path, digest: str) -> Iterator[FeatureStore]:
    spec, engine = _read_spec(root / digest)
    if spec is None:
        raise ArtefactError(f"{root / digest}: not a folder of this version's feature store; delete it by hand")
    shapes = {segment.shape for path in segments_of(root / digest) if (segment := Segment.open(path, digest))}
    store = FeatureStore(root, spec, engine, next(iter(shapes), (1, 1)))
    with store.locked():
        yield store


def _read_spec(folder: Path) -> tuple[EncoderSpec | None, str]:
    try:
        content = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
        return EncoderSpec.from_json(json.dumps(content["spec"])), str(content["engine"])
    except (OSError, ValueError, KeyError, TypeError, ArtefactError):
        return None, "unknown"
