"""From picture files to features.h5: encode what the store does not have, then assemble.

Each worker thread takes a batch from file to rows, with one compute thread of its own: so all cores are busy, decoding
overlaps the network, and a row does not depend on how many cores there are.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import read_picture
from pipeline.device import single_compute_thread
from pipeline.errors import DiskError
from pipeline.features import images
from pipeline.features.cache import Rows, write_cache
from pipeline.features.encoder import Encoder
from pipeline.features.spec import EncoderSpec
from pipeline.features.store import FeatureStore
from pipeline.files import remove_leftovers
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
    memo = FeatureStore(store, encoder.spec, encoder.engine, shape)
    by_key = {picture.sha256: picture for picture in pictures}
    began = time.monotonic()
    with memo.locked():
        remove_leftovers(out)
        missing = [key for key in by_key if key not in memo]
        encoded = len(missing)
        unreadable = _fill(memo, [by_key[key] for key in missing], encoder, batch_size, workers, progress)
        seconds = time.monotonic() - began
        for _ in range(3):
            damaged = _assemble(memo, pictures, encoder.spec, out)
            if not damaged:
                break
            memo.forget(damaged)
            encoded += len(damaged)
            unreadable |= _fill(memo, [by_key[key] for key in damaged], encoder, batch_size, workers, progress)
        else:
            raise DiskError(f"{memo.folder}: rows read back are not those that were written; check this disk")
    return Extraction(
        pictures=len(pictures),
        from_store=len(by_key) - encoded,
        encoded=encoded - len(unreadable),
        seconds=seconds,
        unreadable={picture.image: unreadable[picture.sha256] for picture in pictures if picture.sha256 in unreadable},
    )


class _DamagedRows(Exception):
    """The store has rows that are not what was written there."""


def _assemble(memo: FeatureStore, pictures: Sequence[Picture], spec: EncoderSpec, out: Path) -> list[str]:
    """Write what the store holds of `pictures` to `out`; the keys of damaged rows, if any, and then nothing else."""
    kept = {picture.image: picture.sha256 for picture in pictures if picture.sha256 in memo}

    def read(images: Sequence[str], rows: Rows) -> NDArray[np.uint32]:
        sums, damaged = memo.read([kept[image] for image in images], rows)
        if damaged:
            raise _DamagedRows
        return sums

    try:
        write_cache(out, spec, kept, memo.shape, read)
    except _DamagedRows:
        return memo.damaged(dict.fromkeys(kept.values()))
    return []


def _fill(
    memo: FeatureStore, pictures: list[Picture], encoder: Encoder, batch_size: int, workers: int, progress: Progress
) -> dict[str, str]:
    """Encode `pictures` into one new shard; the reason for each key that could not be."""
    if not pictures:
        return {}
    writer = memo.new_shard([picture.sha256 for picture in pictures])
    place = {key: number for number, key in enumerate(writer.shard.keys)}
    batches = iter([pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)])
    unreadable: dict[str, str] = {}
    workers = workers or os.cpu_count() or 1
    seen = 0
    with closing(writer), single_compute_thread(), ThreadPoolExecutor(workers) as pool:
        running: set[Future[Encoded]] = set()
        try:
            for batch in itertools.chain(batches, itertools.repeat(None)):
                if batch is not None:
                    running.add(pool.submit(_encode, batch, encoder))
                    if len(running) < 2 * workers:
                        continue
                elif not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for keys, rows, bad in (future.result() for future in finished):
                    if rows is not None:
                        memo.learn(writer.shard, writer.add([place[key] for key in keys], rows))
                    unreadable.update(bad)
                    seen += len(keys) + len(bad)
                progress(seen, len(pictures), "pictures")
        except BaseException:  # an interruption too: what was computed is kept
            pool.shutdown(cancel_futures=True)
            with suppress(DiskError):
                writer.flush()
            raise
        memo.learn(writer.shard, writer.flush())
    return unreadable


def _encode(batch: Sequence[Picture], encoder: Encoder) -> Encoded:
    keys, inputs, bad = [], [], {}
    for picture in batch:
        try:
            content = read_picture(picture.path)
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
