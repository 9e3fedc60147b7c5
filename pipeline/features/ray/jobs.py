"""A folder of shards while it is being filled: what was asked for, what is done, and what has to be made again.

    progress/job.json          what the folder is for; another manifest, encoder, processor or shard size is refused
    progress/manifest.parquet  the numbered pictures
    progress/done/*.parquet    Ray's checkpoints: the ids in one finished shard each; `.pending` before it is finished
    shards/000012.h5           the pictures 12 n .. 13 n - 1 of the manifest that could be read, n to a shard
    shards/000012.skipped.csv  those that could not, where there are any

A shard gets its final name after its checkpoint: until then both carry Ray's name of the task that wrote them. In the
end the folder is a function of the manifest and the encoder alone, however often the work was broken off.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, CaptionerError, DataError, DiskError
from pipeline.features.shards import SHARDS, open_shard
from pipeline.files import read_csv, read_json, sync_folder, write_json

SKIPPED_COLUMNS = ("image", "path", "reason")
PENDING = ".pending.parquet"
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What a folder of shards is made for."""

    manifest: str
    pictures: int
    shard_pictures: int
    spec: EncoderSpec
    shape: tuple[int, int]
    engine: str
    """What the rows' last bits depend on beside the spec."""

    @property
    def shards(self) -> int:
        return -(-self.pictures // self.shard_pictures)

    def size(self, number: int) -> int:
        """Pictures of a shard: all have as many, but the last."""
        return min(self.shard_pictures, self.pictures - number * self.shard_pictures)


class Job:
    """The folder, for who alone fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = folder / SHARDS
        self.progress = folder / "progress"
        self.done = self.progress / "done"
        self.manifest = self.progress / "manifest.parquet"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time. Raises `DiskError` after a minute."""
        from filelock import FileLock, Timeout

        if self.folder.is_file():
            raise DataError(
                f"{self.folder}: a features file of the local engine stands where the folder is to be; "
                "delete it, or name another folder with --out"
            )
        try:
            for folder in (self.shards, self.done):
                folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.progress / "lock", timeout=LOCK_SECONDS):
                yield
        except Timeout as error:
            raise DiskError(f"{self.folder}: another run is filling this folder; wait until it ends") from error
        except OSError as error:
            raise DiskError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    def begin(self, plan: Plan) -> None:
        """Raises `ArtefactError` when the folder was begun for something else."""
        path = self.progress / "job.json"
        content = json.loads(json.dumps({**asdict(plan), "spec": json.loads(plan.spec.to_json())}))
        if not path.is_file():
            write_json(path, content)
            return
        begun = read_json(path)
        if begun != content:
            keys = [key for key in content if begun.get(key) != content[key]] if isinstance(begun, dict) else ["all"]
            shown = "; ".join(f"{key}: {_short(begun.get(key))} there, {_short(content[key])} here" for key in keys)
            raise ArtefactError(
                f"{self.folder}: begun for something else ({shown}); name another folder, or delete this one"
            )

    def finished(self, plan: Plan) -> dict[int, Path]:
        """The checkpoint of each shard that is done."""
        found = {}
        for path in sorted(self.done.glob("*.parquet")):
            if not path.name.endswith(PENDING):
                found[self._number(path, plan)] = path
        return found

    def _number(self, checkpoint: Path, plan: Plan) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            ids = pq.ParquetFile(checkpoint).read(["id"])["id"].to_numpy()
            number, start = divmod(int(ids[0]), plan.shard_pictures)
            if start or len(ids) != plan.size(number):
                raise ValueError(f"{len(ids)} ids from {int(ids[0])} on are no shard")
        except (OSError, ValueError, IndexError, KeyError, pa.ArrowException) as error:
            raise ArtefactError(
                f"{checkpoint}: not a checkpoint of this folder: {error}; delete it, and its pictures are encoded again"
            ) from error
        return number

    def settle(self, plan: Plan) -> None:
        """Give finished shards their final names. What killed processes were writing goes; what Ray's pending
        checkpoints name, Ray removes itself."""
        for number, checkpoint in self.finished(plan).items():
            if checkpoint.stem == f"{number:06d}":
                continue
            for suffix in (".skipped.csv", ".h5"):
                written = self.shards / f"{checkpoint.stem}-{number:06d}{suffix}"
                if written.is_file():
                    written.replace(self.shards / f"{number:06d}{suffix}")
            checkpoint.replace(self.done / f"{number:06d}.parquet")
        for path in self.shards.glob(".*"):
            with suppress(OSError):
                path.unlink()
        for folder in (self.shards, self.done):
            sync_folder(folder)

    def forget_damaged(self, plan: Plan) -> list[str]:
        """Let finished shards that are missing or not whole be made again; what was wrong with each."""
        found = []
        for number, checkpoint in self.finished(plan).items():
            path = self.shard(number)
            try:
                shard = open_shard(path, plan.spec)
                if len(shard.images) + len(self.skipped(number)) != plan.size(number):
                    raise ArtefactError(f"{path}: {len(shard.images)} rows, not those of {plan.size(number)} pictures")
            except CaptionerError as error:
                found.append(str(error).partition(";")[0])
                checkpoint.unlink()
                for suffix in (".skipped.csv", ".h5"):
                    path.with_name(f"{number:06d}{suffix}").unlink(missing_ok=True)
        return found

    def shard(self, number: int) -> Path:
        return self.shards / f"{number:06d}.h5"

    def skipped(self, number: int) -> list[tuple[str, str, str]]:
        """image, path and reason of each picture of a shard without a row."""
        path = self.shards / f"{number:06d}.skipped.csv"
        rows = read_csv(path, SKIPPED_COLUMNS) if path.is_file() else []
        return [(image, path, reason) for image, path, reason in rows]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
