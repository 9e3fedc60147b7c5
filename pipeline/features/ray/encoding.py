"""Encoding shards with Ray tasks.

    images of a shard → decode (a CPU) → encode (a CPU or GPU) → write (a CPU)

Each step is a task that starts when the one before has ended, on any machine of the cluster. Shards are independent of
each other, so neither their order nor repeated tasks change the folder.

n images of a shard, S side of the encoder's input, R regions, C channels.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.encoders.images import ImageError, decode_pixels, read_file
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import Features
from pipeline.features.ray.cluster import RETRIES, Cluster
from pipeline.features.ray.job import Job
from pipeline.features.ray.manifest import ListedImage
from pipeline.features.ray.sources import read_source

if TYPE_CHECKING:
    from pipeline.encoders.encoder import Encoder

READERS = 8
"""Threads of a decoding task that wait for files or servers."""

Pixels = NDArray[np.uint8]
Reasons = list[str]
"""For each image "", or the reason why it cannot be used."""


def prepare_job(cluster: Cluster, folder: Path, params: dict[str, Any], seed: int) -> tuple[Job, bytes, bytes]:
    """Build the encoder once on the device that will run it.

    Returns the job, all weights of the encoder, and those that a model file has to contain, both as safetensors. Raises
    `ParamsError` for the encoder.
    """
    task = ray.remote(num_cpus=1, num_gpus=min(cluster.gpus, 1), max_retries=0)(_prepare_job)
    prepared: tuple[Job, bytes, bytes] = ray.get(task.remote(folder, params, seed, cluster.device))
    return prepared


def _prepare_job(folder: Path, params: dict[str, Any], seed: int, device: str) -> tuple[Job, bytes, bytes]:
    from safetensors.torch import save

    from pipeline.device import choose_device
    from pipeline.encoders.encoder import build_encoder

    encoder = build_encoder(**params, seed=seed, device=choose_device(device))
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.network.state_dict().items()}
    job = Job(folder, encoder.spec, (encoder.regions, encoder.channels), encoder.engine)
    return job, save(weights), save(encoder.tensors_to_embed())


def encode_shards(
    job: Job, shards: Mapping[int, Sequence[ListedImage]], cluster: Cluster, weights: bytes
) -> Iterator[tuple[int, int]]:
    """Make `shards` and yield, as each is finished, its number of images and how many of them are skipped.

    Raises what stops it: `DiskError`, `NumericError`, `DataError`. Finished shards remain.
    """
    task = ray.remote(num_cpus=1, max_retries=RETRIES)
    decode, encode_on_cpu, write = task(decode_shard), task(encode_shard), task(Job.write_shard)
    gpu_process = ray.remote(num_gpus=1, max_restarts=-1, max_task_retries=RETRIES)(GpuProcess)
    gpu_processes = cycle([gpu_process.remote() for _ in range(cluster.gpus)])
    stored = [ray.put(weights)]  # in a list, so that a task reads them only when it builds the encoder
    pending: list[Any] = []
    for number, images in shards.items():
        if len(pending) == cluster.shards:
            [finished], pending = ray.wait(pending)
            yield ray.get(finished)
        encode = next(gpu_processes).encode_shard if cluster.gpus else encode_on_cpu
        encoded = encode.remote(job, cluster.device, stored, decode.remote(images, job.spec.preprocessing))
        pending.append(write.remote(job, number, images, encoded))
    while pending:
        [finished], pending = ray.wait(pending)
        yield ray.get(finished)


def decode_shard(images: Sequence[ListedImage], preprocessing: Preprocessing) -> tuple[Pixels, Reasons]:
    """Decode images: the pixels (n, S, S, 3) of those that can be decoded, and the reasons."""
    pixels = np.empty((len(images), preprocessing.size, preprocessing.size, 3), np.uint8)
    reasons: Reasons = []
    with ThreadPoolExecutor(READERS) as pool:
        contents = deque(pool.submit(read_source, image.path) for image in images)
        for image in images:
            read = contents.popleft().result  # popped, so that the bytes are freed
            try:
                pixels[reasons.count("")] = decode_pixels(read_file(read, image.sha256), preprocessing)
                reasons.append("")
            except ImageError as error:
                reasons.append(str(error))
    return pixels[: reasons.count("")], reasons


def encode_shard(
    job: Job, device: str, weights: "list[ray.ObjectRef[bytes]]", decoded: tuple[Pixels, Reasons]
) -> tuple[Features, Reasons]:
    """Encode pixels (n, S, S, 3) to features (n, R, C), and pass on the reasons."""
    pixels, reasons = decoded
    encoder = _restore_encoder(job, device, *weights)
    return encoder.encode(pixels) if len(pixels) else np.zeros((0, *job.shape), np.float16), reasons


class GpuProcess:
    """An actor that keeps a GPU, and the encoder on it."""

    def encode_shard(self, *arguments: Any) -> tuple[Features, Reasons]:
        """See `encode_shard`."""
        return encode_shard(*arguments)


@lru_cache(1)
def _restore_encoder(job: Job, device: str, weights: "ray.ObjectRef[bytes]") -> "Encoder":
    """The encoder, built once per process. Raises `ArtefactError` where it would compute other features."""
    import torch
    from safetensors.torch import load

    from pipeline.device import choose_device
    from pipeline.encoders.encoder import restore_encoder

    torch.set_num_threads(1)  # as `single_threaded`, for as long as the process lives
    encoder = restore_encoder(job.spec, load(ray.get(weights)), choose_device(device))
    if encoder.engine != job.engine:
        raise ArtefactError(
            f"the machines of the cluster differ ({encoder.engine}; {job.engine}), and so would the last bits of their "
            "features; use machines of one kind"
        )
    return encoder
