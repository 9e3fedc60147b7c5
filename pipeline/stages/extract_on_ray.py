"""Stage `extract` on a Ray cluster: runs the frozen encoder on every image of a manifest, into a folder of shards.

Reads the manifest (images.csv, or a table of paths and URLs), the images and prepare's skipped.csv. Writes the folder,
encoder.safetensors and metrics/skipped.csv, as stage `extract` does on one machine. train and score read both.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.datasets.tables import add_skipped_images, check_share
from pipeline.errors import DataError, ParamsError
from pipeline.features.extraction import ExtractReport
from pipeline.features.shards import write_index
from pipeline.files import check_writable, locked_folder, write_bytes
from pipeline.inference.initial_metadata import check_initial_model
from pipeline.progress import Progress, no_progress
from pipeline.stages.extract import ExtractFiles

if TYPE_CHECKING:
    from pipeline.params import Params

SHARD_BYTES = 1 << 27
"""Of a shard's features: large enough to be read at the disk's rate, and several fit into a machine's memory."""
SHARD_PIXEL_BYTES = 1 << 28
"""Of a shard's preprocessed images, which are in memory together."""


def extract_on_ray(
    files: ExtractFiles,
    params: "Params",
    *,
    address: str | None = None,
    shard_images: int | None = None,
    progress: Progress = no_progress,
) -> ExtractReport:
    """Extract the features of all images of a manifest, making only the shards that are not finished.

    `files.images` is the manifest and `files.features` the folder of shards. `address` is that of a running cluster;
    without one, Ray is started on this machine. `shard_images` is the number of images per shard; by default as many
    as fit 128 MiB. Reads the sections `encoder`, `data`, `run` and the seed.

    Raises `ParamsError` for the encoder or the cluster, `DataError` for the manifest and when more than
    `data.max_skipped` of the images cannot be decoded, `ArtefactError` for a folder begun with other settings,
    `DiskError`, `NumericError`; and as `check_initial_model` does.
    """
    try:
        from pipeline.features.ray.cluster import connect
        from pipeline.features.ray.encoding import encode_shards, prepare_job
        from pipeline.features.ray.manifest import read_manifest
    except ImportError as error:
        raise ParamsError(f"--engine ray: {error}; run `pip install -e '.[ray]'` in the checkout") from error

    if params.encoder.jpeg_decoder != "pillow":
        raise ParamsError("params.encoder.jpeg_decoder: --engine ray decodes images on CPUs; set it to pillow")
    check_writable(files.encoder, files.skipped)
    manifest = read_manifest(files.images)
    if files.features.is_file():
        raise DataError(
            f"{files.features}: a features file of the local engine; delete it, or name a folder with --out"
        )
    run, max_skipped = params.run, params.data.max_skipped
    with connect(address, device=run.device, workers=run.workers) as cluster, ExitStack() as lock:
        encoder_params = params.encoder.model_dump()
        if Path(params.encoder.weights).is_file():  # workers run in other folders
            encoder_params["weights"] = str(Path(params.encoder.weights).absolute())
        job, weights, embedded = prepare_job(cluster, files.features.absolute(), encoder_params, params.seed)
        check_initial_model(params, job.spec)
        row_bytes = job.shape[0] * job.shape[1] * 2
        image_bytes = job.spec.preprocessing.size**2 * 3
        size = shard_images or max(1, min(SHARD_BYTES // row_bytes, SHARD_PIXEL_BYTES // image_bytes))
        lock.enter_context(locked_folder(files.features))  # makes the folder, so it comes after all checks
        job.begin(manifest, size)
        shards = [manifest[start : start + size] for start in range(0, len(manifest), size)]
        unfinished = {number: images for number, images in enumerate(shards) if not job.is_finished(number, images)}
        from_shards = done = len(manifest) - sum(map(len, unfinished.values()))
        skipped_now = 0
        began = time.monotonic()
        for images_of_shard, skipped_of_shard in encode_shards(job, unfinished, cluster, weights):
            done, skipped_now = done + images_of_shard, skipped_now + skipped_of_shard
            progress(done, len(manifest), "images in shards")
            if skipped_now > max_skipped * len(manifest):
                break  # a server that is down must not cost a run over all images
        seconds = time.monotonic() - began
        skipped = [row for number in range(len(shards)) for row in job.skipped(number)]
        add_skipped_images(files.skipped, files.skipped_by_prepare, skipped)
        check_share(
            [f"{path}: {reason}" for _, path, reason in skipped],
            len(manifest),
            max_skipped,
            problem="images cannot be decoded",
            remedy=f"repair them, delete {job.folder}/shards/*.skipped.csv and run the same command again,",
            listed=files.skipped,
        )
        write_index(job.folder, len(shards))
    write_bytes(files.encoder, embedded)
    unreadable = {image: reason for image, _, reason in skipped}
    kept = {one.split for one in manifest if one.image not in unreadable}
    return ExtractReport(
        images=len(manifest),
        from_store=from_shards,
        encoded=len(manifest) - from_shards - skipped_now,
        seconds=seconds,
        unreadable=unreadable,
        lost_splits=tuple(sorted({one.split for one in manifest} - kept - {""})),
    )
