"""extract: the frozen encoder runs once per picture, ever.

Reads images.csv, the pictures and prepare's skipped.csv. Writes features.h5, encoder.safetensors (the weights that a
model file has to carry) and metrics/skipped.csv, which adds the pictures that could not be decoded. Rows that were
computed before come from the feature store.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from pipeline.datasets.tables import SKIPPED_COLUMNS, read_images
from pipeline.device import choose_device
from pipeline.encoders.encoder import build
from pipeline.errors import DataError
from pipeline.features.extraction import Extraction, extract_features
from pipeline.features.image_batches import Picture
from pipeline.files import read_csv, sha256_of, write_bytes, write_csv
from pipeline.progress import Progress, no_progress

if TYPE_CHECKING:
    from pipeline.params import EncoderParams, RunParams


@dataclass(frozen=True)
class ListedImages:
    """The pictures of images.csv, read from there each time: a list of them would grow with the dataset."""

    path: Path
    sha256: str
    """Of the table: each pass has to read the same one."""

    @classmethod
    def of(cls, path: Path) -> "ListedImages":
        """Raises `DataError`."""
        return cls(path, _digest(path))

    def __iter__(self) -> Iterator[Picture]:
        """Raises `DataError`, also when the table is another one by the end of the pass."""
        for row in read_images(self.path):
            yield Picture(row.image, row.path, row.sha256)
        if _digest(self.path) != self.sha256:
            raise DataError(f"{self.path}: changed while its pictures were extracted; run `dvc repro` again")


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; run `dvc repro` first") from error


def extract(
    params: "EncoderParams",
    run: "RunParams",
    *,
    seed: int,
    max_skipped: float,
    images: Path,
    skipped: Path,
    features_out: Path,
    encoder_out: Path,
    skipped_out: Path,
    store: Path,
    progress: Progress = no_progress,
) -> Extraction:
    """Raises `ParamsError` for the encoder, `DataError` when more than `max_skipped` of the pictures cannot be read."""
    encoder = build(**params.model_dump(), seed=seed, device=choose_device(run.device))
    pictures = ListedImages.of(images)
    result = extract_features(
        pictures,
        encoder,
        features_out,
        store=store,
        batch_size=run.extract_batch,
        workers=run.workers,
        progress=progress,
    )
    bad = [
        ("extract", picture.path, 0, picture.image, reason)
        for picture in pictures
        if (reason := result.unreadable.get(picture.image))
    ]
    bad.sort(key=lambda row: row[3])
    if len(bad) > max_skipped * result.pictures:
        shown = "\n".join(f"  {path}: {reason}" for _, path, _, _, reason in bad[:5])
        raise DataError(
            f"{len(bad)} of {result.pictures} pictures cannot be read, more than params.data.max_skipped = {max_skipped} "
            f"allows:\n{shown}\nmend them or raise params.data.max_skipped"
        )
    write_bytes(encoder_out, save(encoder.tensors_to_embed()))
    write_csv(skipped_out, SKIPPED_COLUMNS, [*read_csv(skipped, SKIPPED_COLUMNS), *bad])
    return result
