"""Encoding on Ray Data: pictures are read and decoded by tasks, encoded by actors, and written as shards.

    manifest.parquet → [those not yet in a shard] → decode (CPU tasks) → encode (actors) → n pictures → one shard

Ray streams blocks from step to step and holds back the steps that run ahead. Its checkpoints name the ids of finished
shards. Order is kept, so a shard holds the same stretch of the manifest whatever was killed in between.
"""

import hashlib
import json
import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem
from ray.data.checkpoint import CheckpointConfig
from ray.data.datasource import BlockBasedFileDatasink, FilenameProvider
from ray.util.annotations import RayDeprecationWarning

from pipeline.errors import ArtefactError, CaptionerError, DataError, ParamsError
from pipeline.features import images
from pipeline.features.cache import Rows, write_cache
from pipeline.features.jobs import SKIPPED_COLUMNS, Job, Plan
from pipeline.features.sources import read_source
from pipeline.features.spec import EncoderSpec, Transform
from pipeline.files import write_csv
from pipeline.progress import Progress, silent

OTHER_TASKS = 3
"""Logical CPUs beside the actors': one each for reading the manifest (or filtering it by checkpoints, with an actor of
its own), decoding and writing. With fewer, a restored job waits for ever."""
RETRIES = 3
"""Of a task whose process died. Ray's own default is to try for ever, also with a picture that kills its decoder."""
READERS = 8
"""Threads that wait for files or servers in one decoding task."""
_LARGEST_BLOCK = 256
_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Cluster:
    """Where to compute."""

    device: str
    encoders: int

    @property
    def gpus(self) -> int:
        """Of one encoder."""
        return 1 if self.device == "cuda" else 0


@dataclass(frozen=True)
class Described:
    """An encoder as one machine of the cluster has it."""

    spec: EncoderSpec
    tensors: bytes
    """All of its weights, as safetensors."""
    to_embed: bytes
    """Those that a model file has to carry."""
    shape: tuple[int, int]
    engine: str


@contextmanager
def cluster(address: str | None, *, device: str, encoders: int) -> Iterator[Cluster]:
    """A running Ray: the one at `address`, the one that this process has already, or a new one on this machine.

    `encoders`: 0 for as many as there is room for. Raises `ParamsError` for a cluster that is too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default
    ours = not ray.is_initialized()
    if ours:
        _start(address, encoders or os.cpu_count() or 1)
    elif address is not None:
        raise ParamsError("--address: this process is connected to a Ray cluster already")
    try:
        yield _room(ray.cluster_resources(), device, encoders, started_here=ours and address is None)
    finally:
        if ours:
            ray.shutdown()


def _start(address: str | None, encoders: int) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            cpus = encoders + OTHER_TASKS + 1
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(cpus))  # else a warning in every job
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        raise ParamsError(
            f"--address {address}: no Ray cluster to work on: {str(error).splitlines()[0]}; see that it runs, that "
            "this machine reaches it, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the same here and there"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray puts its own in place of the command line's
            signal.signal(number, handler)


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens: Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _room(resources: dict[str, float], device: str, encoders: int, *, started_here: bool) -> Cluster:
    """How many encoders there are to be, and on what."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    kind = device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind not in {"cpu", "cuda"}:
        raise ParamsError(f"params.run.device: {device} is not for --engine ray; use auto, cpu or cuda")
    if kind == "cuda" and not gpus:
        raise ParamsError(f"params.run.device: {device}, but the Ray cluster has no GPU; use auto or cpu")
    if kind == "cuda":
        wanted = encoders or gpus
        if wanted > gpus:
            raise ParamsError(f"params.run.workers: {wanted} encoders, but the Ray cluster has {gpus} GPUs")
    elif started_here:
        wanted = cpus - OTHER_TASKS - 1
    else:  # decoding takes about a twelfth of what the network does
        wanted = encoders or max(1, min(cpus - OTHER_TASKS, cpus * 7 // 8))
    needed = wanted + OTHER_TASKS
    if cpus < needed:
        room = cpus - OTHER_TASKS
        remedy = f"set params.run.workers to at most {room}, or " if room > 0 else ""
        raise ParamsError(
            f"the Ray cluster has {cpus} logical CPUs, but {wanted} encoders need {needed} (one each, and "
            f"{OTHER_TASKS} for reading, decoding and writing); {remedy}start its nodes with a larger --num-cpus"
        )
    return Cluster(kind, wanted)


def describe(where: Cluster, params: dict[str, Any], seed: int) -> Described:
    """Build the encoder where it is going to run. Raises `ParamsError`."""
    with explained():
        found: Described = ray.get(_describe.options(num_gpus=where.gpus).remote(params, seed, where.device))
    return found


@ray.remote(num_cpus=1, max_retries=0)  # type: ignore[untyped-decorator]
def _describe(params: dict[str, Any], seed: int, device: str) -> Described:
    from safetensors.torch import save

    from pipeline.device import choose_device
    from pipeline.features.encoder import build

    encoder = build(**params, seed=seed, device=choose_device(device))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.network.state_dict().items()}
    return Described(
        spec=encoder.spec,
        tensors=save(tensors),
        to_embed=save(encoder.tensors_to_embed()),
        shape=(encoder.regions, encoder.channels),
        engine=encoder.engine,
    )


def encode_missing(job: Job, plan: Plan, where: Cluster, tensors: bytes, progress: Progress = silent) -> int:
    """Fill the shards that are not there; the number of pictures that were tried.

    Raises what stopped it: `DiskError`, `NumericError`, `DataError`. Finished shards stay, and are not made again.
    """
    from ray.data import ActorPoolStrategy

    left = plan.pictures - sum(plan.size(number) for number in job.finished(plan))
    block = block_size(left, where.encoders, plan.shard_pictures)
    height, channels = plan.shape
    sink = ShardSink(str(job.shards.absolute()), plan)
    with _context(job, largest=2 * plan.shard_pictures * (height * channels * 2 + 4096)), _watched(job, plan, progress):
        pictures = ray.data.read_parquet(str(job.manifest.absolute()), filesystem=LocalFileSystem())
        # a small manifest is one block, which one task would decode and one actor encode
        blocks = pictures.repartition(target_num_rows_per_block=block, strict=True)
        with warnings.catch_warnings():  # Ray warns that this way of limiting the retries goes in 2.64
            warnings.simplefilter("ignore", RayDeprecationWarning)
            decoded = blocks.map_batches(
                decode,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"transform": plan.spec.transform},
                num_cpus=1,
                max_retries=RETRIES,
            )
        encoded = decoded.map_batches(
            Encode,
            fn_constructor_args=(plan.spec, ray.put(tensors), where.device, plan.engine),
            compute=ActorPoolStrategy(size=where.encoders),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=where.gpus,
        )
        shards = encoded.repartition(target_num_rows_per_block=plan.shard_pictures, strict=True)
        with explained():
            shards.write_datasink(sink, ray_remote_args={"num_cpus": 1, "max_retries": RETRIES})
    return left


def block_size(left: int, encoders: int, shard_pictures: int) -> int:
    """Pictures per task: few enough that every encoder gets several blocks, and that a block's pixels fit anywhere."""
    return max(1, min(_LARGEST_BLOCK, shard_pictures, math.ceil(left / (4 * encoders))))


@contextmanager
def _context(job: Job, *, largest: int) -> Iterator[None]:
    """Ray Data's settings of this job, and the former ones afterwards."""
    context = ray.data.DataContext.get_current()
    checkpoints = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(job.done.absolute()),
        delete_checkpoint_on_success=False,
        override_filesystem=LocalFileSystem(),  # else a path is taken for an address
    )
    checkpoints.checkpoint_actor_pool_max_size = 1  # a filter is quick, and takes a CPU that the others need
    checkpoints.checkpoint_actor_memory_bytes = 1 << 20  # at least; with Ray's 1 GiB it never starts on a small machine
    settings = {
        "checkpoint_config": checkpoints,
        "enable_progress_bars": False,
        "target_max_block_size": max(context.target_max_block_size or 0, largest),  # else a shard is cut into several
    }
    former = {name: getattr(context, name) for name in settings}
    ordered = context.execution_options.preserve_order
    logger = logging.getLogger("ray.data")
    level = logger.level
    try:
        for name, value in settings.items():
            setattr(context, name, value)
        context.execution_options.preserve_order = True
        logger.setLevel(logging.ERROR)
        yield
    finally:
        for name, value in former.items():
            setattr(context, name, value)
        context.execution_options.preserve_order = ordered
        logger.setLevel(level)


@contextmanager
def _watched(job: Job, plan: Plan, progress: Progress) -> Iterator[None]:
    """Tell now and then how many pictures are in finished shards."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PROGRESS_SECONDS):
            with suppress(CaptionerError):
                progress(sum(plan.size(number) for number in job.finished(plan)), plan.pictures, "pictures in shards")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def decode(pictures: pa.Table, transform: Transform) -> pa.Table:
    """id, image, path → the same, pixels (S * S * 3 bytes) and the reason for a picture that has none."""
    rows = pictures.to_pylist()
    pixels = np.zeros((len(rows), transform.size, transform.size, 3), np.uint8)
    reasons = []
    with ThreadPoolExecutor(READERS) as pool:
        for place, found in enumerate(pool.map(_content, rows)):
            try:
                pixels[place] = images.fitted(images.decode(_or_raise(found)), transform)
                reasons.append("")
            except OSError as error:
                reasons.append(f"cannot be read: {error.strerror or error}")
            except images.ImageError as error:
                reasons.append(str(error))
    return (
        pictures.drop_columns(["sha256"])
        .append_column("reason", pa.array(reasons, pa.large_string()))
        .append_column("pixels", _as_column(pixels))
    )


def _content(row: dict[str, Any]) -> bytes | Exception:
    """The bytes of a picture, or what is wrong with it."""
    try:
        content = read_source(row["path"])
    except OSError as error:
        return error
    if row["sha256"] and hashlib.sha256(content).hexdigest() != row["sha256"]:
        return images.ImageError("changed since the manifest was made: its sha256 is another")
    return content


def _or_raise(found: bytes | Exception) -> bytes:
    if isinstance(found, Exception):
        raise found
    return found


class Encode:
    """An actor with the encoder: pixels → features (R * C float16)."""

    def __init__(self, spec: EncoderSpec, tensors: "ray.ObjectRef[bytes]", device: str, engine: str) -> None:
        from safetensors.torch import load

        from pipeline.device import choose_device
        from pipeline.features.encoder import restore

        self._encoder = restore(spec, load(ray.get(tensors)), choose_device(device))
        self._engine = engine

    def __call__(self, pictures: pa.Table) -> pa.Table:
        from pipeline.device import single_compute_thread

        encoder = self._encoder
        if encoder.engine != self._engine:
            raise ArtefactError(
                f"the machines of the cluster differ: {encoder.engine} here, {self._engine} elsewhere, and so would "
                "the last bits of their rows; use nodes of one kind"
            )
        side = encoder.spec.transform.size
        usable = np.array([not reason for reason in pictures["reason"].to_pylist()], bool)
        rows = np.zeros((len(usable), encoder.regions, encoder.channels), np.float16)
        if usable.any():
            pixels = _from_column(pictures["pixels"], np.uint8, (side, side, 3))
            with single_compute_thread():
                rows[usable] = encoder.encode(pixels[usable])
        return pictures.drop_columns(["pixels"]).append_column("features", _as_column(rows))


class ShardSink(BlockBasedFileDatasink):  # type: ignore[misc]  # Ray has no types here
    """Writes each block as one shard, beside its name and then renamed: a killed task leaves no part of one."""

    def __init__(self, folder: str, plan: Plan) -> None:
        super().__init__(folder, filesystem=LocalFileSystem(), filename_provider=FilenameProvider(file_format="h5"))
        self._plan = plan

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        plan = self._plan
        pictures = pa.concat_tables(blocks)
        if not pictures.num_rows:
            return
        ids = pictures["id"].to_numpy()
        number = int(ids[0]) // plan.shard_pictures
        start = number * plan.shard_pictures
        if not np.array_equal(ids, np.arange(start, start + plan.size(number))):
            raise RuntimeError(f"Ray did not keep the order: {len(ids)} pictures from {ids[0]} to {ids[-1]} in a block")
        task = self.filename_provider.get_filename_for_task(ctx.kwargs["write_uuid"], ctx.task_idx)
        path = Path(self.unresolved_path) / f"{Path(task).stem}-{number:06d}.h5"
        _write_shard(path, plan, pictures)


def _write_shard(path: Path, plan: Plan, pictures: pa.Table) -> None:
    import zlib

    names, reasons = pictures["image"].to_pylist(), pictures["reason"].to_pylist()
    features = _from_column(pictures["features"], np.float16, plan.shape)
    place = {image: number for number, (image, reason) in enumerate(zip(names, reasons, strict=True)) if not reason}
    bad = [number for number, reason in enumerate(reasons) if reason]
    if bad:
        paths = pictures["path"].to_pylist()
        rows = [(names[number], paths[number], reasons[number]) for number in bad]
        write_csv(path.with_suffix(".skipped.csv"), SKIPPED_COLUMNS, rows)

    def read(images: Iterable[str], rows: Rows) -> NDArray[np.uint32]:
        rows[:] = features[[place[image] for image in images]]
        return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)

    write_cache(path, plan.spec, place, plan.shape, read)


def _as_column(values: NDArray[Any]) -> pa.Array:
    """Rows of any shape as bytes of one length each, without a copy."""
    width = int(np.prod(values.shape[1:])) * values.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def _from_column(column: pa.ChunkedArray, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    values: NDArray[Any] = np.concatenate(parts).view(dtype)
    return values.reshape(-1, *shape)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of ours that Ray has wrapped come out as they were raised; a process that keeps dying is a `DataError`."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, CaptionerError):
                raise _plain(cause) from error
            if isinstance(cause, ray.exceptions.WorkerCrashedError):
                raise DataError(
                    f"a process that reads pictures or writes shards died {RETRIES + 1} times on the same ones: "
                    f"{_line(cause)}; look for a damaged picture or too little memory, then run the same command again"
                ) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]


def _plain(error: CaptionerError) -> CaptionerError:
    """Of one of our classes alone: Ray's copy belongs to its own classes too, and prints their tracebacks."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith("pipeline.")]
    message = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return kinds[0](message) if type(error) is not kinds[0] else error


def _line(error: BaseException) -> str:
    return json.dumps(str(error).strip().splitlines()[0])[1:-1]
