"""Stage `extract` on a Ray cluster: runs the frozen encoder on every image of a manifest, into a folder of shards.

Reads the manifest (images.csv, or a table of paths and URLs), the images and prepare's skipped.csv. Writes the folder,
encoder.safetensors and metrics/skipped.csv, as stage `extract` does on one machine. train and score read both.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.datasets.skipped import add_skipped_images, check_share
from pipeline.errors import ParamsError
from pipeline.features.shards import shard_path, write_index
from pipeline.files import write_bytes
from pipeline.inference.initial_metadata import check_initial_model
from pipeline.progress import Progress, no_progress
from pipeline.wording import shown_names

if TYPE_CHECKING:
    from pipeline.params import Params

SHARD_BYTES = 1 << 27
"""Of a shard's features: large enough to be read at the disk's rate, and several fit into a machine's memory."""
SHARD_PIXEL_BYTES = 1 << 28
"""Of a shard's preprocessed images, which are in memory together."""


@dataclass(frozen=True)
class ExtractOnRayFiles:
    """Inputs and outputs of the stage, beside the images."""

    manifest: Path = paths.IMAGES
    skipped_by_prepare: Path | None = paths.SKIPPED_ROWS
    """None for a manifest that is not prepare's."""
    features: Path = paths.FEATURES
    """The folder of shards."""
    encoder: Path = paths.ENCODER
    skipped: Path = paths.SKIPPED


@dataclass(frozen=True)
class ExtractOnRayReport:
    """What an extraction did."""

    images: int
    from_shards: int
    """Images in shards that an earlier run had finished, skipped ones included."""
    encoded: int
    seconds: float
    """Time spent encoding."""
    shards: int
    skipped: int
    remade: tuple[str, ...]
    """The reason for each existing shard that was made again."""


def extract_on_ray(
    files: ExtractOnRayFiles,
    params: "Params",
    *,
    address: str | None = None,
    shard_images: int | None = None,
    progress: Progress = no_progress,
) -> ExtractOnRayReport:
    """Extract the features of all images of a manifest, making only the shards that do not exist yet.

    `address` is that of a running cluster; without one, Ray is started on this machine. `shard_images` is the number
    of images per shard; by default as many as fit 128 MiB. Reads the sections `encoder`, `data`, `run` and the seed.

    Raises `ParamsError` for the encoder or the cluster, `DataError` for the manifest and when more than
    `data.max_skipped` of the images cannot be decoded, `ArtefactError` for a folder begun with other settings,
    `DiskError`, `NumericError`; and as `check_initial_model` does.
    """
    try:
        from pipeline.features.ray.cluster import connect
        from pipeline.features.ray.encoding import describe_encoder, encode_shards
        from pipeline.features.ray.job import Job, locked_folder
        from pipeline.features.ray.manifest import read_manifest
    except ImportError as error:
        raise ParamsError(f"--engine ray: {error}; run `pip install -e '.[ray]'` in the checkout") from error

    manifest = read_manifest(files.manifest)
    run = params.run
    with locked_folder(files.features), connect(address, device=run.device, encoders=run.workers) as cluster:
        encoder = describe_encoder(cluster, _with_absolute_weights(params.encoder.model_dump()), params.seed)
        check_initial_model(params, encoder.spec)
        row_bytes = encoder.shape[0] * encoder.shape[1] * 2
        image_bytes = encoder.spec.preprocessing.size**2 * 3
        job = Job(
            folder=files.features.absolute(),
            images=len(manifest),
            shard_images=shard_images or max(1, min(SHARD_BYTES // row_bytes, SHARD_PIXEL_BYTES // image_bytes)),
            spec=encoder.spec,
            shape=encoder.shape,
            engine=encoder.engine,
        )
        job.begin(manifest)
        unfinished = job.unfinished()
        from_shards = done = job.images - sum(job.size(number) for number in unfinished)
        skipped_now = 0
        began = time.monotonic()
        if unfinished:
            for images, skipped in encode_shards(job, list(unfinished), cluster, encoder.tensors):
                done, skipped_now = done + images, skipped_now + skipped
                progress(done, job.images, "images in shards")
                if skipped_now > params.data.max_skipped * job.images:
                    break  # a server that is down must not cost a run over all images
        seconds = time.monotonic() - began
        incomplete = {number: rows for number in range(job.shards) if (rows := job.skipped(number))}
        skipped_images = [row for rows in incomplete.values() for row in rows]
        names = shown_names([shard_path(job.folder, number).name for number in incomplete])
        check_share(
            [f"{path}: {reason}" for _, path, reason in skipped_images],
            job.images,
            params.data.max_skipped,
            problem="images cannot be decoded",
            remedy=f"repair them, delete their shards ({names} in "
            f"{shard_path(job.folder, 0).parent}) and run the same command again,",
        )
        write_index(job.folder, job.spec, job.shape, job.shards)
    write_bytes(files.encoder, encoder.tensors_to_embed)
    add_skipped_images(files.skipped, files.skipped_by_prepare, skipped_images)
    return ExtractOnRayReport(
        images=job.images,
        from_shards=from_shards,
        encoded=job.images - from_shards - skipped_now,
        seconds=seconds,
        shards=job.shards,
        skipped=len(skipped_images),
        remade=tuple(reason for reason in unfinished.values() if reason),
    )


def _with_absolute_weights(params: dict[str, object]) -> dict[str, object]:
    """Encoder params whose weights file, if they name one, is found from any working folder."""
    weights = Path(str(params["weights"]))
    return params | {"weights": str(weights.absolute())} if weights.is_file() else params
