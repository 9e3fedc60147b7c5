"""From picture files to features.h5: encode what the store does not have, then assemble.

Each worker thread takes a batch from file to rows, with one compute thread of its own: so all cores are busy, decoding
overlaps the network, and a row does not depend on how many cores there are.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.features import images
from pipeline.features.cache import Rows, write_cache
from pipeline.features.encoder import Encoder
from pipeline.features.store import FeatureStore, Shard
from pipeline.progress import Progress, silent


@dataclass(frozen=True)
class Picture:
    """A picture file as `prepare` found it."""

    image: str
    """Its id: the path below the image folder."""
    path: Path
    sha256: str


@dataclass(frozen=True)
class Extraction:
    """What an extraction did."""

    pictures: int
    from_store: int
    encoded: int
    seconds: float
    """Spent encoding."""
    unreadable: dict[str, str]
    """The reason for each picture without a row."""


Encoded = tuple[list[str], Rows | None, dict[str, str]]
"""The keys of the rows, the rows (n, R, C), and the reason for each key without one."""


@contextmanager
def single_compute_thread() -> Iterator[None]:
    """Within, every thread computes alone: a row's bits then depend on the processor, not on its number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def extract_features(
    pictures: Sequence[Picture],
    encoder: Encoder,
    out: Path,
    *,
    store: Path,
    batch_size: int,
    workers: int,
    progress: Progress = silent,
) -> Extraction:
    """Write the features of `pictures` to `out`, encoding only what `store` lacks.

    A picture that cannot be read is left out and named in the result. Raises `DiskError`, `NumericError`.
    """
    shape = (encoder.regions, encoder.channels)
    memo = FeatureStore(store, encoder.spec, shape)
    with memo.locked():
        memo = FeatureStore(store, encoder.spec, shape)  # what another run added while this one waited
        by_key = {picture.sha256: picture for picture in pictures}
        missing = memo.missing(by_key)
        began = time.monotonic()
        unreadable = _fill(memo, [by_key[key] for key in missing], encoder, batch_size, workers, progress)
        seconds = time.monotonic() - began
        kept = {picture.image: picture.sha256 for picture in pictures if picture.sha256 in memo}
        write_cache(out, encoder.spec, kept, shape, lambda image: memo[kept[image]])
    return Extraction(
        pictures=len(pictures),
        from_store=len(by_key) - len(missing),
        encoded=len(missing) - len(unreadable),
        seconds=seconds,
        unreadable={picture.image: unreadable[picture.sha256] for picture in pictures if picture.sha256 in unreadable},
    )


def _fill(
    memo: FeatureStore, pictures: list[Picture], encoder: Encoder, batch_size: int, workers: int, progress: Progress
) -> dict[str, str]:
    """Encode `pictures` into one new shard; the reason for each key that could not be."""
    if not pictures:
        return {}
    shard = memo.new_shard([picture.sha256 for picture in pictures])
    place = {key: number for number, key in enumerate(shard.keys)}
    batches = iter([pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)])
    unreadable: dict[str, str] = {}
    workers = workers or os.cpu_count() or 1
    seen = 0
    with single_compute_thread(), ThreadPoolExecutor(workers) as pool:
        running: set[Future[Encoded]] = set()
        try:
            while batch := next(batches, None):
                running.add(pool.submit(_encode, batch, encoder))
                if len(running) == 2 * workers:
                    seen += _keep_finished(running, memo, shard, place, unreadable)
                    progress(seen, len(pictures), "pictures")
            while running:
                seen += _keep_finished(running, memo, shard, place, unreadable)
                progress(seen, len(pictures), "pictures")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return unreadable


def _keep_finished(
    running: set[Future[Encoded]], memo: FeatureStore, shard: Shard, place: dict[str, int], unreadable: dict[str, str]
) -> int:
    """Wait for at least one batch, store what is there; the number of pictures seen."""
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    running -= finished
    seen = 0
    for keys, rows, bad in (future.result() for future in finished):
        if rows is not None:
            memo.add(shard, [place[key] for key in keys], rows)
        unreadable.update(bad)
        seen += len(keys) + len(bad)
    return seen


def _encode(batch: Sequence[Picture], encoder: Encoder) -> Encoded:
    keys, inputs, bad = [], [], {}
    for picture in batch:
        try:
            content = picture.path.read_bytes()
            if hashlib.sha256(content).hexdigest() != picture.sha256:
                raise images.ImageError("changed since `prepare` read it; run `dvc repro` again")
            inputs.append(encoder.prepare(images.decode(content)))
            keys.append(picture.sha256)
        except OSError as error:
            bad[picture.sha256] = f"cannot be read: {error.strerror}"
        except images.ImageError as error:
            bad[picture.sha256] = str(error)
    rows = encoder.encode(np.stack(inputs)) if inputs else None
    return keys, rows, bad
