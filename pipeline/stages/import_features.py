"""`import-features`: writes features that another program computed, in the place of the stage `extract`.

Reads images.csv, prepare's skipped.csv and the features. Writes features.h5, an encoder.safetensors without tensors and
metrics/skipped.csv, which adds the images without features. Images with fewer regions than others are padded with
regions of zeros, which the decoders mask.

R regions, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from pipeline import paths
from pipeline.datasets.tables import add_skipped_images, check_share, read_images
from pipeline.encoders.spec import imported_spec
from pipeline.errors import DataError
from pipeline.features.feature_file import Features, write_feature_file
from pipeline.features.imported import ChannelsFirstError, ImportSource, match_ids, open_source, regions_of
from pipeline.files import check_writable, write_bytes
from pipeline.progress import Progress, no_progress

if TYPE_CHECKING:
    from pipeline.params import Params


@dataclass(frozen=True)
class ImportOptions:
    """Where the features are, and how they are stored."""

    source: Path
    name: str
    """Of the program or network that computed the features. Features of one name are comparable."""
    ids: Path | None = None
    key: str | None = None
    regions: int | None = None
    """Regions stored per image; None: the largest number that an image has."""


@dataclass(frozen=True)
class ImportReport:
    """What was imported."""

    images: int
    regions: int
    channels: int
    fewest_regions: int
    skipped: dict[str, str]
    """Reason by image for each image without features."""
    extra: list[str]
    """Ids of features without an image."""
    cut: int
    """Images with more than `regions` regions, of which the first ones were kept."""


def import_features(params: "Params", options: ImportOptions, *, progress: Progress = no_progress) -> ImportReport:
    """Write features.h5 from the features of another program. Reads the section `data` of `params`.

    Raises `DataError` when the features cannot be read or have their channels first, and when more than
    `data.max_skipped` of the images have none; `DiskError`.
    """
    check_writable(paths.FEATURES, paths.ENCODER, paths.SKIPPED)
    if not paths.IMAGES.exists():
        raise DataError(f"{paths.IMAGES}: no such file; run `dvc repro prepare vocab` first")
    source = open_source(options.source, ids=options.ids, key=options.key)
    paths_of = {row.image: str(row.path) for row in read_images(paths.IMAGES)}
    match = match_ids(sorted(paths_of), list(source.places))
    if not match.found:
        example = f"{match.extra[0]!r} is no name, path or number of one" if match.extra else "there is no id"
        raise DataError(
            f"{options.ids or options.source}: no id belongs to an image: {example}; the images are named as "
            f"{next(iter(paths_of))!r} in {paths.IMAGES}"
        )
    skipped = dict.fromkeys(match.missing, f"no features of it in {options.source}")
    counts, channels = _check(source, match.found, skipped, progress)
    add_skipped_images(
        paths.SKIPPED, paths.SKIPPED_ROWS, ((image, paths_of[image], reason) for image, reason in skipped.items())
    )
    check_share(
        [f"{image}: {reason}" for image, reason in sorted(skipped.items())],
        len(paths_of),
        params.data.max_skipped,
        problem="images have no usable features",
        remedy="add their features",
        listed=paths.SKIPPED,
    )
    regions = options.regions or max(counts.values())

    def read(some: Sequence[str]) -> Features:
        features = np.zeros((len(some), regions, channels), np.float16)
        for row, image in enumerate(some):
            values = regions_of(source.read(match.found[image]), channels)[:regions]
            features[row, : len(values)] = values
        return features

    write_feature_file(paths.FEATURES, imported_spec(options.name, channels), counts, (regions, channels), read)
    write_bytes(paths.ENCODER, save({}))
    cut = sum(count > regions for count in counts.values())
    return ImportReport(len(counts), regions, channels, min(counts.values()), skipped, match.extra, cut)


def _check(
    source: ImportSource, found: dict[str, str], skipped: dict[str, str], progress: Progress
) -> tuple[dict[str, int], int]:
    """Read everything once: the number of regions of each usable image, and the number of channels.

    Adds the other images to `skipped`: the file's size must be known before it is written.
    """
    counts: dict[str, int] = {}
    channels: int | None = None
    for number, (image, key) in enumerate(found.items(), start=1):
        try:
            values = regions_of(source.read(key), channels)
            counts[image], channels = values.shape
        except ChannelsFirstError as error:
            raise DataError(f"{image}: {error}") from error
        except DataError as error:
            skipped[image] = str(error)
        progress(number, len(found), "images checked")
    return counts, channels or 0
