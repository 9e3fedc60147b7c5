"""Extraction: from image files to features.h5. Encodes the images that the feature store lacks, then writes the file.

On a CPU each worker thread takes images from files to features with one compute thread of its own. All cores are
busy, decoding overlaps with the network, and features do not depend on the number of cores. See `gpu_extraction` for
GPUs.
"""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.device import single_threaded
from pipeline.encoders.encoder import Encoder
from pipeline.encoders.images import ImageError
from pipeline.errors import ArtefactError, DataError, DiskError
from pipeline.features.feature_file import Features, write_feature_file
from pipeline.features.gpu_extraction import encode_on_gpu
from pipeline.features.image_batches import EncodedBatch, ImageFile, map_ahead
from pipeline.features.store import FeatureStore
from pipeline.files import check_room, check_writable, remove_leftovers
from pipeline.progress import Progress, no_progress

CHUNK_PIXELS = 800_000
"""Pixels that a thread decodes before it encodes them, 15 images of 225 x 225: 6% faster than image by image, because
caches stay warm. A chunk is what an interrupted run waits for and loses."""
_ATTEMPTS = 3
"""Attempts to write rows and read them back before `DiskError` is raised."""


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did."""

    images: int
    from_store: int
    """Distinct images whose features were in the store; on Ray, all images of finished shards."""
    encoded: int
    seconds: float
    """Time spent encoding."""
    unreadable: dict[str, str]
    """Reason by image id for each image without features."""
    lost_splits: tuple[str, ...] = ()
    """Splits of which no image can be decoded; set by the stages."""


def extract_features(
    images: Sequence[ImageFile],
    encoder: Encoder,
    out: Path,
    *,
    store: Path,
    workers: int,
    progress: Progress = no_progress,
) -> ExtractReport:
    """Write the features of `images` to `out`, encoding only those that the feature store in folder `store` lacks.

    Images with equal bytes are encoded once. An image that cannot be decoded is left out and listed in the report.
    `workers` is the number of threads, 0 for one per core; with a GPU, of processes that decode. Raises `DiskError`,
    `NumericError`, `PeerError`.
    """
    check_writable(out)
    files: dict[str, list[ImageFile]] = {}
    for image in images:
        files.setdefault(image.sha256, []).append(image)
    cached = FeatureStore(store, encoder.spec, encoder.engine, (encoder.regions, encoder.channels))
    unreadable: dict[str, str] = {}
    attempted: set[str] = set()
    seconds = 0.0
    with cached.locked():
        remove_leftovers(out)
        for _ in range(_ATTEMPTS):
            missing = [same[0] for sha256, same in files.items() if sha256 not in cached and sha256 not in unreadable]
            if missing:
                _check_room_for_both(out, len(images), len(missing), cached)
            began = time.monotonic()
            failed = _encode_into_store(missing, cached, encoder, workers, progress)
            copies = [files[sha256][-1] for sha256 in failed if len(files[sha256]) > 1]  # the first may be gone since
            failed |= _encode_into_store(copies, cached, encoder, workers, progress)
            seconds += time.monotonic() - began
            attempted |= {image.sha256 for image in missing}
            unreadable |= {sha256: reason for sha256, reason in failed.items() if sha256 not in cached}
            damaged = _write_from_store(images, cached, out)
            if damaged is None:
                break
            cached.forget(damaged)
        else:
            raise DiskError(f"{cached.folder}: rows read back differ from those written; check this disk")
    return ExtractReport(
        images=len(images),
        from_store=len(files) - len(attempted),
        encoded=len(attempted) - len(unreadable),
        seconds=seconds,
        unreadable={image.image: unreadable[image.sha256] for image in images if image.sha256 in unreadable},
    )


def _check_room_for_both(out: Path, rows: int, missing: int, cached: FeatureStore) -> None:
    """Raise `DiskError` when the disk has no room for the `rows` of `out` and those that the store lacks."""
    out.parent.mkdir(parents=True, exist_ok=True)
    same_disk = out.parent.stat().st_dev == cached.folder.stat().st_dev
    check_room(out.parent, (rows + missing * same_disk) * cached.row_bytes)


def _write_from_store(images: Sequence[ImageFile], cached: FeatureStore, out: Path) -> list[str] | None:
    """Write the features of `images` to `out`. If a row cannot be read, write nothing and return the damaged keys."""
    sha256_of_image = {image.image: image.sha256 for image in images if image.sha256 in cached}

    def read(ids: Sequence[str]) -> Features:
        return cached.read([sha256_of_image[image] for image in ids])

    try:
        write_feature_file(out, cached.spec, sha256_of_image, cached.shape, read)
    except (ArtefactError, DataError):
        return cached.damaged(dict.fromkeys(sha256_of_image.values()))
    return None


def _encode_into_store(
    images: list[ImageFile], cached: FeatureStore, encoder: Encoder, workers: int, progress: Progress
) -> dict[str, str]:
    """Encode `images` into new parts of the store; return the reason by sha256 for those that cannot be decoded."""
    if not images:
        return {}
    unreadable: dict[str, str] = {}
    done = 0
    encode = encode_on_cpu if encoder.device.type == "cpu" else encode_on_gpu
    encoded = encode(images, encoder, workers or os.cpu_count() or 1)
    with cached.filling(len(images)), single_threaded(), closing(encoded):
        for batch in encoded:
            cached.add(batch.keys, batch.features)
            unreadable |= batch.unreadable
            done += len(batch.keys) + len(batch.unreadable)
            progress(done, len(images), "images")
    return unreadable


def encode_on_cpu(images: Sequence[ImageFile], encoder: Encoder, workers: int) -> Generator[EncodedBatch, None, None]:
    """Decode and encode `images` in threads, in order."""
    chunk = max(1, CHUNK_PIXELS // encoder.spec.preprocessing.size**2)

    def encode(start: int) -> EncodedBatch:
        pixels: dict[str, NDArray[np.uint8]] = {}
        unreadable: dict[str, str] = {}
        for image in images[start : start + chunk]:
            try:
                pixels[image.sha256] = image.pixels(encoder.spec.preprocessing)
            except ImageError as error:
                unreadable[image.sha256] = str(error)
        features = np.empty((0, encoder.regions, encoder.channels), np.float16)
        if pixels:
            features = encoder.encode(np.stack(list(pixels.values())))
        return EncodedBatch(list(pixels), features, unreadable)

    yield from map_ahead(encode, range(0, len(images), chunk), workers=workers, ahead=2 * workers)
