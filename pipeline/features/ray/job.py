"""A folder of shards while it is filled: what it contains in the end, and which shards are finished.

    manifest.arrow             the images, a record batch per shard; metadata `captioner`: spec, shape, engine
    shards/000012.h5           the images of the 13th record batch that can be decoded
    shards/000012.skipped.csv  those that cannot, if any

A shard is written beside its name and renamed, after its list of skipped images. So a shard that exists is complete,
and tasks may be repeated at any time. The folder is a function of the manifest and the encoder alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError, DataError, DiskError
from pipeline.features.ray.sources import NO_ANSWER
from pipeline.features.shards import METADATA, open_shard, shard_path
from pipeline.files import read_csv, replacing, write_csv
from pipeline.wording import counted

SKIPPED_COLUMNS = ("image", "path", "reason")
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What a folder of shards is made for. Sent to every task."""

    folder: Path
    """Absolute; on a file system that all machines share."""
    images: int
    shard_images: int
    spec: EncoderSpec
    shape: tuple[int, int]
    """R, C"""
    engine: str
    """Libraries and processor, which also determine the features' last bits."""

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_images)

    def size(self, number: int) -> int:
        """Return the number of images of a shard, skipped ones included."""
        return min(self.shard_images, self.images - number * self.shard_images)

    def begin(self, manifest: pa.Table) -> None:
        """Write `manifest` in record batches of one shard each.

        Raises `ArtefactError` when the folder was begun with another manifest, encoder, engine or shard size.
        """
        settings = {"engine": self.engine, "shard_images": self.shard_images, "shape": list(self.shape)}
        path = self.folder / "manifest.arrow"
        if path.is_file():
            self._compare(path, manifest, settings)
        metadata = json.dumps(settings | {"spec": json.loads(self.spec.to_json())}, sort_keys=True)
        table = manifest.combine_chunks().replace_schema_metadata({METADATA: metadata})
        with (
            replacing(path) as beside,
            pa.OSFile(str(beside), "wb") as file,
            pa.ipc.new_file(file, table.schema) as out,
        ):
            out.write_table(table, max_chunksize=self.shard_images)

    def _compare(self, path: Path, manifest: pa.Table, settings: dict[str, Any]) -> None:
        try:
            with pa.memory_map(str(path)) as file:
                earlier = pa.ipc.open_file(file).read_all()
                begun = json.loads(earlier.schema.metadata[METADATA])
                differences = EncoderSpec.from_json(json.dumps(begun["spec"])).differences(self.spec)
                differences += [f"{name}: {begun[name]}, {now}" for name, now in settings.items() if begun[name] != now]
                if not _contents(earlier).equals(_contents(manifest)):
                    differences.append(f"manifest: {counted(len(earlier), 'image')}, {len(manifest):,} or other images")
        except (OSError, ValueError, KeyError, TypeError, ArtefactError, pa.ArrowException) as error:
            raise ArtefactError(f"{path}: not a readable manifest: {error}; delete {self.folder}") from error
        if differences:
            raise ArtefactError(
                f"{self.folder}: begun with other settings (then, now: {'; '.join(differences)}); "
                "name another folder with --out, or delete this one"
            )

    def read_manifest(self, number: int) -> list[dict[str, str]]:
        """Return image, path and sha256 of each image of a shard."""
        with pa.memory_map(str(self.folder / "manifest.arrow")) as file:
            rows: list[dict[str, str]] = pa.ipc.open_file(file).get_batch(number).to_pylist()
        return rows

    def write_skipped(self, number: int, rows: list[tuple[str, str, str]]) -> None:
        """Write image, path and reason of the images of a shard without features."""
        path = self._skipped_path(number)
        if rows:
            write_csv(path, SKIPPED_COLUMNS, rows)
        else:
            path.unlink(missing_ok=True)

    def skipped(self, number: int) -> list[tuple[str, str, str]]:
        """Return image, path and reason of the images of a shard without features."""
        path = self._skipped_path(number)
        rows = read_csv(path, SKIPPED_COLUMNS) if path.is_file() else ()
        return [(image, path, reason) for image, path, reason in rows]

    def unfinished(self) -> dict[int, str]:
        """Return the shards to make, and for those that exist the reason why they have to be made again."""
        found = {}
        for number in range(self.shards):
            reason = self._problem(number)
            if reason is not None:
                found[number] = reason
        return found

    def _problem(self, number: int) -> str | None:
        path = shard_path(self.folder, number)
        if not path.exists():
            return ""
        try:
            shard, skipped = open_shard(path, self.spec), self.skipped(number)
        except CaptionerError as error:
            return str(error).rpartition(";")[0]
        if len(shard.images) + len(skipped) != self.size(number):
            return f"{path}: {counted(len(shard.images), 'row')} and {len(skipped)} skipped of {self.size(number)}"
        unanswered = sum(NO_ANSWER in reason for *_, reason in skipped)
        return f"{path}: lacks {counted(unanswered, 'image')} whose server did not answer" if unanswered else None

    def _skipped_path(self, number: int) -> Path:
        return shard_path(self.folder, number).with_suffix(".skipped.csv")


def _contents(manifest: pa.Table) -> pa.Table:
    """The ids and what identifies each image: its sha256 or, where that is unknown, its path."""
    known = pc.not_equal(manifest["sha256"], "")
    contents = pc.if_else(known, manifest["sha256"], manifest["path"])
    return pa.table([manifest["image"], contents], ["image", "content"])


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder of shards and lock it: one run at a time may fill it. Raises `DataError`, `DiskError`."""
    if folder.is_file():
        raise DataError(f"{folder}: a features file of the local engine; delete it, or name a folder with --out")
    try:
        shard_path(folder, 0).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            _remove_leftovers(folder)
            yield
            _remove_leftovers(folder)
    except Timeout as error:
        raise DiskError(f"{folder}: another run is filling this folder; wait until it ends") from error
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed while writing."""
    for leftover in (*folder.glob(".*.*"), *folder.glob("shards/.*")):
        leftover.unlink(missing_ok=True)
