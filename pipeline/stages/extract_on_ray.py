"""extract on a Ray cluster: the frozen encoder over every picture of a manifest, into a folder of shards.

Reads the manifest (images.csv, or a table of paths and URLs), the pictures and prepare's skipped.csv. Writes the
folder, encoder.safetensors and metrics/skipped.csv, as `extract` does on one machine; train and score read both alike.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.datasets.tables import SKIPPED_COLUMNS
from pipeline.errors import DataError, ParamsError
from pipeline.features.ray.jobs import Job, Plan
from pipeline.features.ray.manifest import number_pictures
from pipeline.features.shards import write_index
from pipeline.files import read_csv, write_bytes, write_csv
from pipeline.progress import Progress, no_progress

if TYPE_CHECKING:
    from pipeline.params import EncoderParams, RunParams

SHARD_BYTES = 1 << 27
"""Of a shard's rows: large enough to be read at the disk's rate, small enough for several in a machine's memory."""


@dataclass(frozen=True)
class ShardedExtraction:
    """What an extraction on a cluster did."""

    pictures: int
    from_shards: int
    """In shards that an earlier run had finished."""
    encoded: int
    seconds: float
    shards: int
    unreadable: int
    remade: list[str]
    """What was wrong with each shard that was made anew."""


def extract_on_ray(
    params: "EncoderParams",
    run: "RunParams",
    *,
    seed: int,
    max_skipped: float,
    manifest: Path,
    skipped: Path | None,
    features_out: Path,
    encoder_out: Path,
    skipped_out: Path,
    shard_pictures: int | None = None,
    address: str | None = None,
    progress: Progress = no_progress,
) -> ShardedExtraction:
    """Raises `ParamsError` for the encoder or the cluster, `DataError` when more than `max_skipped` cannot be read."""
    try:
        from pipeline.features.ray.cluster import cluster
        from pipeline.features.ray.encoding import describe, encode_missing
    except ImportError as error:
        raise ParamsError(f"--engine ray: {error}; run `pip install 'captioner[ray]'`") from error

    job = Job(features_out)
    with job.locked(), cluster(address, device=run.device, encoders=run.workers) as where:
        numbered = number_pictures(manifest, job.manifest)
        encoder = describe(where, _with_whole_path(params.model_dump()), seed)
        row_bytes = encoder.shape[0] * encoder.shape[1] * 2
        plan = Plan(
            manifest=numbered.digest,
            pictures=numbered.pictures,
            shard_pictures=shard_pictures or max(1, SHARD_BYTES // row_bytes),
            spec=encoder.spec,
            shape=encoder.shape,
            engine=encoder.engine,
        )
        job.begin(plan)
        job.settle(plan)
        remade = job.forget_damaged(plan)
        began = time.monotonic()
        finished = job.finished(plan)
        tried = encode_missing(job, plan, where, encoder.tensors, progress) if len(finished) < plan.shards else 0
        seconds = time.monotonic() - began
        job.settle(plan)
        bad = [(number, *row) for number in range(plan.shards) for row in job.skipped(number)]
        _refuse_too_many(bad, plan.pictures, max_skipped, job)
        rows = write_index(features_out, plan.spec, plan.shape, (job.shard(number) for number in range(plan.shards)))
    if rows != plan.pictures - len(bad):
        raise RuntimeError(f"{features_out}: {rows} rows and {len(bad)} skipped of {plan.pictures} pictures")
    write_bytes(encoder_out, encoder.to_embed)
    listed = sorted(("extract", path, 0, image, reason) for _, image, path, reason in bad)
    write_csv(skipped_out, SKIPPED_COLUMNS, [*(read_csv(skipped, SKIPPED_COLUMNS) if skipped else []), *listed])
    return ShardedExtraction(
        pictures=plan.pictures,
        from_shards=plan.pictures - tried,
        encoded=tried - sum(number not in finished for number, *_ in bad),
        seconds=seconds,
        shards=plan.shards,
        unreadable=len(bad),
        remade=remade,
    )


def _with_whole_path(params: dict[str, object]) -> dict[str, object]:
    """A file of weights is named from the root, since the machines that read it run elsewhere."""
    weights = Path(str(params["weights"]))
    return params | {"weights": str(weights.absolute())} if weights.is_file() else params


def _refuse_too_many(bad: list[tuple[int, str, str, str]], pictures: int, max_skipped: float, job: Job) -> None:
    if len(bad) > max_skipped * pictures:
        shown = "\n".join(f"  {path}: {reason}" for _, _, path, reason in bad[:5])
        shards = sorted({number for number, *_ in bad})
        names = ", ".join(f"{number:06d}" for number in shards[:5]) + (", ..." if len(shards) > 5 else "")
        raise DataError(
            f"{len(bad)} of {pictures} pictures cannot be read, more than params.data.max_skipped = {max_skipped} allows:\n"
            f"{shown}\nmend them, delete the shards that are to be made anew ({names} in {job.shards}), and run again; "
            "or raise params.data.max_skipped"
        )
