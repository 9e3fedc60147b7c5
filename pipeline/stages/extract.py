"""Stage `extract`: runs the frozen encoder once on every image.

Reads images.csv, the images and prepare's skipped.csv. Writes features.h5, encoder.safetensors (the weights that a
model file has to contain) and metrics/skipped.csv, which adds the images that cannot be decoded. Features computed by
an earlier run come from the feature store.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from pipeline import paths
from pipeline.datasets.tables import add_skipped_images, check_share, read_images
from pipeline.device import choose_device
from pipeline.encoders.encoder import build_encoder
from pipeline.features.extraction import ExtractReport, extract_features
from pipeline.features.image_batches import ImageFile
from pipeline.files import check_writable, write_bytes
from pipeline.inference.initial_metadata import check_initial_model
from pipeline.progress import Progress, no_progress

if TYPE_CHECKING:
    from pipeline.params import Params


@dataclass(frozen=True)
class ExtractFiles:
    """Inputs and outputs of the stage, beside the images."""

    images: Path = paths.IMAGES
    skipped_by_prepare: Path | None = paths.SKIPPED_ROWS
    """None if `images` is not prepare's."""
    features: Path = paths.FEATURES
    encoder: Path = paths.ENCODER
    skipped: Path = paths.SKIPPED


def extract(files: ExtractFiles, params: "Params", *, store: Path, progress: Progress = no_progress) -> ExtractReport:
    """Extract the features of all images, encoding only those that the feature store in folder `store` lacks.

    Reads the sections `encoder`, `data`, `run` and the seed. Raises `ParamsError` for the encoder, `DataError` when
    more than `data.max_skipped` of the images cannot be decoded, `DiskError`, `NumericError`; and as
    `check_initial_model` does, so that a wrong `train.init_from` is found before the long work.
    """
    check_writable(files.encoder, files.skipped)
    device = choose_device(params.run.device)
    encoder = build_encoder(**params.encoder.model_dump(), seed=params.seed, device=device)
    check_initial_model(params, encoder.spec)
    rows = list(read_images(files.images))
    images = [ImageFile(row.image, row.path, row.sha256) for row in rows]
    report = extract_features(
        images, encoder, files.features, store=store, workers=params.run.workers, progress=progress
    )
    reasons = report.unreadable
    skipped = [(row.image, str(row.path), reasons[row.image]) for row in rows if row.image in reasons]
    add_skipped_images(files.skipped, files.skipped_by_prepare, skipped)
    check_share(
        [f"{file}: {reason}" for _, file, reason in skipped],
        len(images),
        params.data.max_skipped,
        problem="images cannot be decoded",
        remedy="repair them",
        listed=files.skipped,
    )
    write_bytes(files.encoder, save(encoder.tensors_to_embed()))
    kept = {row.split for row in rows if row.image not in reasons}
    return replace(report, lost_splits=tuple(sorted({row.split for row in rows} - kept)))
