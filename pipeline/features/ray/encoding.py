"""The Ray Data pipeline: each row is a shard.

    shard numbers → decode (CPU tasks) → encode (an actor per GPU or CPU) → write (CPU tasks)

Ray Data streams shards through the three steps and holds back a step that runs ahead of the next one. Each shard is
independent of the others, so neither their order nor repeated tasks change the folder.

S side of the encoder's input, R regions, C channels.
"""

import logging
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from pipeline.encoders.images import ImageError, read_pixels
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import write_feature_file
from pipeline.features.ray.cluster import RETRIES, Cluster, translated_errors
from pipeline.features.ray.job import Job
from pipeline.features.ray.sources import read_source
from pipeline.features.shards import shard_path

READERS = 8
"""Threads of a decoding task that wait for files or servers."""

Row = dict[str, Any]


@dataclass(frozen=True)
class EncoderDescription:
    """An encoder as a machine of the cluster builds it."""

    spec: EncoderSpec
    tensors: bytes
    """All of its weights, as safetensors."""
    tensors_to_embed: bytes
    """Those that a model file has to contain."""
    shape: tuple[int, int]
    """R, C"""
    engine: str


def describe_encoder(cluster: Cluster, params: dict[str, Any], seed: int) -> EncoderDescription:
    """Build the encoder once on the device that will run it, and return what the other machines need.

    Raises `ParamsError` for the encoder.
    """
    with translated_errors():
        task = _describe_encoder.options(num_gpus=cluster.gpus_per_encoder)
        description: EncoderDescription = ray.get(task.remote(params, seed, cluster.device))
    return description


@ray.remote(num_cpus=1, max_retries=0)  # type: ignore[untyped-decorator]
def _describe_encoder(params: dict[str, Any], seed: int, device: str) -> EncoderDescription:
    from safetensors.torch import save

    from pipeline.device import choose_device
    from pipeline.encoders.encoder import build_encoder

    encoder = build_encoder(**params, seed=seed, device=choose_device(device))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in encoder.network.state_dict().items()}
    return EncoderDescription(
        spec=encoder.spec,
        tensors=save(tensors),
        tensors_to_embed=save(encoder.tensors_to_embed()),
        shape=(encoder.regions, encoder.channels),
        engine=encoder.engine,
    )


def encode_shards(job: Job, shards: Sequence[int], cluster: Cluster, tensors: bytes) -> Iterator[tuple[int, int]]:
    """Make `shards` and yield, as each is finished, its number of images and how many of them are skipped.

    Raises what stops it: `DiskError`, `NumericError`, `DataError`. Finished shards remain.
    """
    with _data_context(), translated_errors():
        numbers = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():  # Ray Data has no other way to limit the retries of a task
            warnings.simplefilter("ignore", RayDeprecationWarning)
            decoded = numbers.map(decode_shard, fn_args=(job,), num_cpus=1, max_retries=RETRIES)
            encoded = decoded.map(
                ShardEncoder,
                fn_constructor_args=(job, ray.put(tensors), cluster.device),
                compute=ActorPoolStrategy(min_size=1, max_size=min(cluster.encoders, len(shards))),
                num_cpus=1,
                num_gpus=cluster.gpus_per_encoder,
            )
            written = encoded.map(write_shard, fn_args=(job,), num_cpus=1, max_retries=RETRIES)
        for row in written.iter_rows():
            yield row["images"], row["skipped"]


def decode_shard(row: Row, job: Job) -> Row:
    """Decode the images of a shard: pixels (n, S, S, 3) of those that can be decoded, the reason or "" for each."""
    images = job.read_manifest(row["shard"])
    side = job.spec.preprocessing.size
    pixels = np.empty((len(images), side, side, 3), np.uint8)
    reasons: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        contents = deque(pool.submit(read_source, image["path"]) for image in images)
        for image in images:
            read = contents.popleft().result  # popped, so that the bytes are freed
            try:
                pixels[reasons.count("")] = read_pixels(read, image["sha256"], job.spec.preprocessing)
                reasons.append("")
            except ImageError as error:
                reasons.append(str(error))
    return {"shard": row["shard"], "pixels": pixels[: reasons.count("")], "reasons": reasons}


class ShardEncoder:
    """An actor with the encoder: pixels (n, S, S, 3) to features (n, R, C)."""

    def __init__(self, job: Job, tensors: "ray.ObjectRef[bytes]", device: str) -> None:
        from safetensors.torch import load

        from pipeline.device import choose_device
        from pipeline.encoders.encoder import restore_encoder

        self._encoder = restore_encoder(job.spec, load(ray.get(tensors)), choose_device(device))
        self._job = job

    def __call__(self, row: Row) -> Row:
        from pipeline.device import single_threaded

        if self._encoder.engine != self._job.engine:
            raise ArtefactError(
                f"the machines of the cluster differ ({self._encoder.engine}; {self._job.engine}), and so would the "
                "last bits of their features; use machines of one kind"
            )
        pixels = row.pop("pixels")
        features = np.zeros((0, *self._job.shape), np.float16)
        if len(pixels):
            with single_threaded():
                features = self._encoder.encode(pixels)
        return row | {"features": features}


def write_shard(row: Row, job: Job) -> Row:
    """Write a shard and, before it, the list of its skipped images."""
    number, features, reasons = row["shard"], row["features"], row["reasons"]
    images = job.read_manifest(number)
    skipped = [(image["image"], image["path"], reason) for image, reason in zip(images, reasons, strict=True) if reason]
    kept = [image["image"] for image, reason in zip(images, reasons, strict=True) if not reason]
    place = {image: position for position, image in enumerate(kept)}
    job.write_skipped(number, skipped)
    write_feature_file(
        shard_path(job.folder, number),
        job.spec,
        kept,
        job.shape,
        lambda wanted: features[[place[image] for image in wanted]],
    )
    return {"images": len(images), "skipped": len(skipped)}


@contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data without progress bars and logs, and with the original exceptions."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)
