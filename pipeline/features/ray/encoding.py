"""Encoding on Ray Data: pictures are read and decoded by tasks, encoded by actors, and written as shards.

    manifest.parquet → [those not yet in a shard] → decode (CPU tasks) → encode (actors) → n pictures → one shard

Ray streams blocks from step to step and holds back the steps that run ahead. Its checkpoints name the ids of finished
shards. Order is kept, so a shard holds the same stretch of the manifest whatever was killed in between.
"""

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from pyarrow.fs import LocalFileSystem
from ray.data.checkpoint import CheckpointConfig
from ray.util.annotations import RayDeprecationWarning

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import CaptionerError
from pipeline.features.ray.cluster import RETRIES, Cluster, explained
from pipeline.features.ray.jobs import Job, Plan
from pipeline.features.ray.steps import Encode, ShardSink, decode
from pipeline.progress import Progress, no_progress

_LARGEST_BLOCK = 256
_PROGRESS_SECONDS = 2.0


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


def describe(where: Cluster, params: dict[str, Any], seed: int) -> Described:
    """Build the encoder where it is going to run. Raises `ParamsError`."""
    with explained():
        found: Described = ray.get(_describe.options(num_gpus=where.gpus).remote(params, seed, where.device))
    return found


@ray.remote(num_cpus=1, max_retries=0)  # type: ignore[untyped-decorator]
def _describe(params: dict[str, Any], seed: int, device: str) -> Described:
    from safetensors.torch import save

    from pipeline.device import choose_device
    from pipeline.encoders.encoder import build

    encoder = build(**params, seed=seed, device=choose_device(device))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.network.state_dict().items()}
    return Described(
        spec=encoder.spec,
        tensors=save(tensors),
        to_embed=save(encoder.tensors_to_embed()),
        shape=(encoder.regions, encoder.channels),
        engine=encoder.engine,
    )


def encode_missing(job: Job, plan: Plan, where: Cluster, tensors: bytes, progress: Progress = no_progress) -> int:
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
