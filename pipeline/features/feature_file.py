"""features.h5: the features of all images in one file.

    features  (N, R, C) float16   contiguous, so that np.memmap reads a row at a fixed offset
    crc32     (N,)      uint32    of each row's bytes
    image     (N,)      bytes     image ids in UTF-8, in byte order
    attributes: spec (the EncoderSpec's canonical JSON), schema

Other programs read it as HDF5. This program reads its header (see `feature_layout`), whose sha256 over everything but
the features is checked on opening; the rows are checked by their crc32 when they are read. The file is a function of
the images and the spec alone: its bytes do not depend on the order or history of extraction.

N images, R regions, C channels.
"""

import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError
from pipeline.features.feature_layout import (
    DIGEST_BYTES,
    HEADER_BYTES,
    SCHEMA,
    Header,
    digest_outside_features,
    make_layout,
)
from pipeline.file_signatures import other_content
from pipeline.files import allocate, replacing, write_at

if TYPE_CHECKING:
    from pipeline.features.shards import ShardedRows

SLAB_BYTES = 1 << 20
"""Rows written at a time; they fit into the processor's cache."""
PREFETCHED_ROWS = 64
"""Rows that are requested from the disk together."""

Features = NDArray[np.float16]


def remedy(spec: EncoderSpec | None) -> str:
    """What replaces damaged features, for messages. `spec` is None where it cannot be read."""
    extract = "run `dvc repro -f extract`"
    imported = "run `captioner import-features` again or `dvc checkout -f extract`"
    if spec is None:
        return f"{extract} or, for imported features, {imported}"
    return imported if spec.imported else extract


class MappedRows:
    """Rows (N, R, C) of a memory-mapped file."""

    def __init__(self, path: Path, header: Header) -> None:
        self.shape = header.shape
        self._row_bytes = header.shape[1] * header.shape[2] * 2
        self._start = header.features
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = header.feature_bytes // 2
        self._rows: Features = np.frombuffer(self._map, "<f2", count, self._start).reshape(header.shape)

    def __getitem__(self, row: int) -> Features:
        rows: Features = self._rows[row]
        return rows

    def prefetch(self, rows: Sequence[int]) -> None:
        """Start to read rows from the disk. Returns at once.

        Random rows that are not in memory are then read together, and no system reads ahead megabytes for each of them:
        rows of 0.2 MB took 588 microseconds each, and 2,184 as rows of an `np.memmap`. Does nothing where the system
        has no `MADV_WILLNEED`.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for row in rows:
            start = self._start + row * self._row_bytes
            page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, start + self._row_bytes - page)


@dataclass(frozen=True)
class FeatureFile:
    """An open features.h5: image ids in memory, features memory-mapped."""

    path: Path
    spec: EncoderSpec
    images: tuple[str, ...]
    """Image ids, in the order of the rows."""
    features: "MappedRows | ShardedRows"
    """(N, R, C) float16, unchecked. Use `read` or `load`."""
    crc32: NDArray[np.uint32]
    """(N,)"""

    @property
    def regions(self) -> int:
        return int(self.features.shape[1])

    @property
    def channels(self) -> int:
        return int(self.features.shape[2])

    def digest(self) -> str:
        """Return the hex sha256 over schema, spec, shape, ids and checksums. Equal digests mean equal features."""
        shape = [self.regions, self.channels]
        header = json.dumps({"schema": SCHEMA, "shape": shape, "spec": self.spec.to_json()}, sort_keys=True)
        digest = hashlib.sha256(header.encode())
        for image in self.images:
            digest.update(b"\0" + image.encode())  # no path contains a NUL
        digest.update(b"\0\0" + np.ascontiguousarray(self.crc32, "<u4").tobytes())
        return digest.hexdigest()

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each image id."""
        return {image: row for row, image in enumerate(self.images)}

    def load(self, images: Sequence[str]) -> Features:
        """Return the features (n, R, C) of `images`, in their order.

        Raises `DataError` for an image without features, `ArtefactError` for a damaged row.
        """
        missing = next((image for image in images if image not in self.index), None)
        if missing is not None:
            raise DataError(f"{self.path}: contains no features of {missing}; {remedy(self.spec)}")
        return self.read(np.array([self.index[image] for image in images], np.int64))

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Features:
        """Return the features (n, R, C) of `rows`, in their order, each checked against its crc32.

        Raises `ArtefactError` for a damaged row.
        """
        numbers = [int(row) for row in rows]
        features = np.empty((len(numbers), self.regions, self.channels), np.float16)
        order = self._reading_order(numbers)
        for position, place in enumerate(order):
            if position % PREFETCHED_ROWS == 0:
                self.features.prefetch([numbers[one] for one in order[position : position + PREFETCHED_ROWS]])
            row = numbers[place]
            features[place] = self.features[row]
            if zlib.crc32(features[place].data) != self.crc32[row]:
                raise ArtefactError(f"{self._file(row)}: the row of {self.images[row]} is damaged; {self._remedy(row)}")
        return features

    def _reading_order(self, rows: Sequence[int]) -> Sequence[int]:
        """Return the positions in `rows` in the order in which reading is fastest."""
        return range(len(rows))

    def _file(self, row: int) -> Path:
        """Return the file that contains a row."""
        return self.path

    def _remedy(self, row: int) -> str:
        return remedy(self.spec)

    @classmethod
    def open(cls, path: Path) -> "FeatureFile":
        """Open a features file, or a folder of shards (see `shards`).

        Raises `DataError` when there is no file, `ArtefactError` naming what is wrong with it.
        """
        if path.is_dir():
            from pipeline.features.shards import open_folder

            return open_folder(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file; run `dvc repro extract` first")
        try:
            return _open(path)
        except (ArtefactError, OSError, ValueError) as error:
            problem = other_content(path) or f"{error}; {remedy(None)}"
            raise ArtefactError(f"{path}: {problem}") from error


def _open(path: Path) -> FeatureFile:
    """Open and check a features file. Raises `ArtefactError` and others with the reason alone."""
    with path.open("rb") as file:
        first = file.read(HEADER_BYTES)
        header = Header.unpack(first)
        found, size = path.stat().st_size, header.size
        if found < size:
            raise ArtefactError(f"truncated: {found:,} bytes of at least {size:,}")
        if digest_outside_features(file, header).encode() != first[-DIGEST_BYTES:]:
            raise ArtefactError("damaged: its spec, ids and checksums do not match their sha256")
        count, *_ = header.shape
        file.seek(header.image)
        ids = np.frombuffer(file.read(count * header.id_bytes), f"S{header.id_bytes}")
        file.seek(header.crc32)
        crc32 = np.frombuffer(file.read(count * 4), "<u4")
    images = tuple(image.decode() for image in ids.tolist())
    return FeatureFile(path, EncoderSpec.from_json(header.spec), images, MappedRows(path, header), crc32)


def write_feature_file(
    path: Path,
    spec: EncoderSpec,
    images: Iterable[str],
    shape: tuple[int, int],
    read: Callable[[Sequence[str]], Features],
) -> None:
    """Replace `path` by the features of `images`, in byte order of their ids.

    `read` returns the features (n, R, C) of some images, with (R, C) = `shape`; several threads call it. The file gets
    its full size before it is filled, so that a full disk raises an error of the operating system, not a crash inside
    HDF5. Raises `DiskError`.
    """
    ordered = sorted({image.encode() for image in images})
    layout, header = make_layout(spec, ordered, shape)
    row_bytes = shape[0] * shape[1] * 2
    step = max(1, SLAB_BYTES // row_bytes)
    with replacing(path) as beside, beside.open("rb+", buffering=0) as file, ThreadPoolExecutor() as pool:
        allocate(file, beside, max(header.size, len(layout)))
        write_at(file, 0, layout)

        def fill(start: int) -> list[int]:
            features = np.ascontiguousarray(read([image.decode() for image in ordered[start : start + step]]), "<f2")
            write_at(file, header.features + start * row_bytes, features.data)
            return [zlib.crc32(row.data) for row in features]

        sums = [crc32 for slab in pool.map(fill, range(0, len(ordered), step)) for crc32 in slab]
        crc32 = np.array(sums, "<u4")
        write_at(file, header.crc32, crc32.tobytes())
        write_at(file, HEADER_BYTES - DIGEST_BYTES, digest_outside_features(file, header).encode())
