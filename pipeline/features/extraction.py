"""From picture files to features.h5: encode what the store does not have, then assemble.

On a CPU each worker thread takes a batch from file to rows, with one compute thread of its own: so all cores are busy,
decoding overlaps the network, and a row does not depend on how many cores there are. Other devices have a `conveyor`.

No list of the pictures is held: they are gone through again whenever they are needed.
"""

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, count, islice, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.device import single_threaded
from pipeline.encoders import images
from pipeline.encoders.encoder import Encoder
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DiskError
from pipeline.features.feature_file import Rows, ids_of, write_feature_file
from pipeline.features.gpu_extraction import PIECE, on_device
from pipeline.features.image_batches import Batch, Encoded, Picture, unpacked
from pipeline.features.store import FeatureStore, first_occurrences, keys_of
from pipeline.features.store_segment import Keys
from pipeline.files import remove_leftovers
from pipeline.progress import Progress, no_progress


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


def extract_features(
    pictures: Iterable[Picture],
    encoder: Encoder,
    out: Path,
    *,
    store: Path,
    batch_size: int,
    workers: int,
    progress: Progress = no_progress,
) -> Extraction:
    """Write the features of `pictures` to `out`, encoding only what `store` lacks.

    `pictures` are gone through several times. One that cannot be read is left out and named in the result.
    Raises `DiskError`, `NumericError`; `TypeError` for pictures that can be gone through only once.
    """
    if iter(pictures) is pictures:
        raise TypeError("the pictures are gone through several times: give a list of them, not an iterator")
    shape = (encoder.regions, encoder.channels)
    memo = FeatureStore(store, encoder.spec, encoder.engine, shape)
    keys = keys_of(picture.sha256 for picture in pictures)
    distinct = first_occurrences(keys)
    began = time.monotonic()
    with memo.locked():
        remove_leftovers(out)
        missing = distinct[~memo.holds(distinct)]
        encoded = len(missing)
        unreadable = _fill(memo, pictures, missing, encoder, batch_size, workers, progress)
        seconds = time.monotonic() - began
        for _ in range(3):
            damaged = _assemble(memo, pictures, keys, encoder.spec, out)
            if not len(damaged):
                break
            memo.forget(damaged)
            encoded += len(damaged)
            unreadable |= _fill(memo, pictures, damaged, encoder, batch_size, workers, progress)
        else:
            raise DiskError(f"{memo.folder}: rows read back are not those that were written; check this disk")
    return Extraction(
        pictures=len(keys),
        from_store=len(distinct) - encoded,
        encoded=encoded - len(unreadable),
        seconds=seconds,
        unreadable={picture.image: unreadable[picture.sha256] for picture in pictures if picture.sha256 in unreadable},
    )


class _DamagedRows(Exception):
    """The store has rows that are not what was written there."""


def _assemble(memo: FeatureStore, pictures: Iterable[Picture], keys: Keys, spec: EncoderSpec, out: Path) -> Keys:
    """Write what the store holds of `pictures` to `out`; the keys of damaged rows, if any, and then nothing else."""
    ids = ids_of(picture.image for picture in pictures)
    order = np.argsort(ids)
    order = order[memo.holds(keys)[order]]
    ids, kept = ids[order], keys[order]

    def read(wanted: Sequence[str], rows: Rows) -> NDArray[np.uint32]:
        sums, damaged = memo.read(kept[np.searchsorted(ids, ids_of(wanted))], rows)
        if len(damaged):
            raise _DamagedRows
        return sums

    try:
        write_feature_file(out, spec, (image.decode() for image in ids), memo.shape, read)
    except _DamagedRows:
        damaged = memo.damaged(first_occurrences(kept))
        return first_occurrences(keys[np.isin(keys, damaged)])
    return kept[:0]


def _fill(
    memo: FeatureStore,
    pictures: Iterable[Picture],
    wanted: Keys,
    encoder: Encoder,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> dict[str, str]:
    """Encode those of `pictures` that are `wanted` into one new segment; the reason for each key that could not be.

    `wanted` are in the order in which they first occur in `pictures`.
    """
    if not len(wanted):
        return {}
    writer = memo.new_segment(wanted)
    chosen = _first_of_each(pictures, wanted)
    unreadable: dict[str, str] = {}
    workers = workers or os.cpu_count() or 1
    seen = 0
    if encoder.device.type == "cpu":
        work = _on_threads(_batches(chosen, batch_size), encoder, workers)
    else:
        work = on_device(_batches(chosen, PIECE), encoder, workers)
    with closing(writer), single_threaded():
        try:
            with closing(work):
                for places, rows, bad in work:
                    if rows is not None:
                        writer.add(places, rows)
                    unreadable.update(bad)
                    seen += len(places) + len(bad)
                    progress(seen, len(wanted), "pictures")
        except BaseException:  # an interruption too: what was computed is kept
            with suppress(DiskError):
                writer.flush()
            raise
        writer.flush()
    memo.refresh()
    return unreadable


def _on_threads(batches: Iterator[Batch], encoder: Encoder, workers: int) -> Generator[Encoded, None, None]:
    """Batches in the order in which they are done; each is taken from file to rows by one thread."""
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[Encoded]] = set()
        try:
            for batch in chain(batches, repeat(None)):
                if batch is not None:
                    running.add(pool.submit(_encode, batch, encoder))
                    if len(running) < 2 * workers:
                        continue
                elif not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _first_of_each(pictures: Iterable[Picture], wanted: Keys) -> Iterator[Picture]:
    """A picture for each of `wanted`, in its order."""
    found = 0
    for picture in pictures:
        if found < len(wanted) and bytes.fromhex(picture.sha256) == wanted[found : found + 1].tobytes():
            found += 1
            yield picture


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[Batch]:
    for start in count(0, size):
        batch = list(islice(pictures, size))
        if not batch:
            return
        yield start, batch


def _encode(batch: Batch, encoder: Encoder) -> Encoded:
    places, inputs, bad = unpacked(batch, lambda content, _: encoder.prepare(images.decode(content)))
    return places, encoder.encode(np.stack(inputs)) if inputs else None, bad
