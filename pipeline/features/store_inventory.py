"""What a feature store holds, whether it is sound, and how it is made smaller."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError
from pipeline.features.store import FeatureStore
from pipeline.features.store_segment import Keys, Segment, segments_of


@dataclass(frozen=True)
class StoredEncoder:
    """The rows of one encoder, computed by one engine."""

    digest: str
    """Name of the folder."""
    spec: EncoderSpec | None
    """None where it cannot be read: made by another version, or damaged."""
    engine: str
    pictures: int
    bytes: int
    """On disk, with room that interrupted runs have not filled."""


@dataclass(frozen=True)
class Check:
    """What reading every row of a holding found."""

    digest: str
    sound: int
    damaged: int
    """These are encoded again by the next run that needs them."""
    unreadable_files: tuple[Path, ...]


def stored_encoders(root: Path) -> list[StoredEncoder]:
    """What lies below `root`, by digest."""
    found = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        spec, engine = _described(folder)
        segments = [Segment.open(path, folder.name) for path in segments_of(folder)]
        keys = [segment.keys[segment.done()] for segment in segments if segment]
        pictures = len(np.unique(np.concatenate(keys))) if keys else 0
        size = sum(path.stat().st_size for path in folder.iterdir())
        found.append(StoredEncoder(folder.name, spec, engine, pictures, size))
    return found


def verify(root: Path, digest: str) -> Check:
    """Read every row and compare its crc32."""
    folder = root / digest
    sound = damaged = 0
    unreadable = []
    for path in segments_of(folder):
        segment = Segment.open(path, digest)
        if segment is None:
            unreadable.append(path)
            continue
        row = np.empty((1, *segment.shape), np.float16)
        for place in segment.done().tolist():
            if segment.is_sound(place, row):
                sound += 1
            else:
                damaged += 1
    return Check(digest, sound, damaged, tuple(unreadable))


def find(root: Path, prefix: str) -> StoredEncoder:
    """The one holding whose digest begins with `prefix`. Raises `DataError`."""
    matching = [one for one in stored_encoders(root) if one.digest.startswith(prefix)]
    if len(matching) != 1:
        raise DataError(
            f"{root}: {len(matching) or 'no'} encoders begin with {prefix!r}; `captioner cache show` lists them"
        )
    return matching[0]


def remove(root: Path, digest: str) -> None:
    """Forget one holding. Raises `DiskError` when a run is filling it."""
    with _locked(root, digest):
        for path in (*segments_of(root / digest), root / digest / "spec.json"):
            path.unlink(missing_ok=True)
    shutil.rmtree(root / digest, ignore_errors=True)


def keep_only(root: Path, digest: str, keys: Keys) -> int:
    """Forget the rows of all pictures but `keys`; the number of rows that went.

    What stays is written to a new segment before the old ones go. Raises `DiskError`.
    """
    with _locked(root, digest) as store:
        held = store.keys()
        kept = held[np.isin(held, keys)]
        if len(kept) == len(held):
            return 0
        old = segments_of(store.folder)
        kept = kept[~np.isin(kept, store.damaged(kept))]
        if len(kept):
            with closing(store.new_segment(kept)) as writer:
                row = np.empty((1, *store.shape), np.float16)
                for place in range(len(kept)):
                    store.read(kept[place : place + 1], row)
                    writer.add([place], row)
                writer.flush()
        for path in old:
            path.unlink()
        return len(held) - len(kept)


@contextmanager
def _locked(root: Path, digest: str) -> Iterator[FeatureStore]:
    spec, engine = _described(root / digest)
    if spec is None:
        raise ArtefactError(f"{root / digest}: not a folder of the feature store; delete it by hand")
    shapes = {segment.shape for path in segments_of(root / digest) if (segment := Segment.open(path, digest))}
    store = FeatureStore(root, spec, engine, next(iter(shapes), (1, 1)))
    with store.locked():
        yield store


def _described(folder: Path) -> tuple[EncoderSpec | None, str]:
    try:
        content = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        return EncoderSpec.from_json(json.dumps(content["spec"])), str(content["engine"])
    except (OSError, ValueError, KeyError, TypeError, ArtefactError):
        return None, "unknown"
