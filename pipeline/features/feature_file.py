"""features.h5: the features of all images in one file. The only module that uses h5py.

    features  (N, R, C) float16   contiguous, so that np.memmap reads a row at a fixed offset
    crc32     (N,)      uint32    of each row's bytes
    image     (N,)      bytes     image ids in UTF-8, in byte order
    sha256    ()        64 bytes  hex digest of the schema, spec, shape, ids and checksums
    attributes: spec (the EncoderSpec's canonical JSON), schema

Every byte that decides a row is under the digest, which is checked on opening; the rows themselves are checked by
their crc32 when they are read. The file is a function of the images and the spec alone: its bytes do not depend on
the order or history of extraction.

N images, R regions, C channels.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError
from pipeline.files import allocate, replacing, write_at

SCHEMA = 2
SLAB_BYTES = 1 << 20
"""Rows written at a time; they fit into the processor's cache."""
REMEDY = "run `dvc repro -f extract`"

Features = NDArray[np.float16]


class RowReader(Protocol):
    """An array of rows that can be read one by one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, row: int, /) -> Features: ...


@dataclass(frozen=True)
class FeatureFile:
    """An open features.h5: image ids in memory, features memory-mapped."""

    path: Path
    spec: EncoderSpec
    images: tuple[str, ...]
    """Image ids, in the order of the rows."""
    features: Features | RowReader
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
        """Return the hex sha256 over spec, shape, ids and checksums. Equal digests mean equal features."""
        return content_digest(self.spec, (self.regions, self.channels), self.images, self.crc32)

    def index(self) -> dict[str, int]:
        """Return the row of each image id."""
        return self._index

    @cached_property
    def _index(self) -> dict[str, int]:
        return {image: row for row, image in enumerate(self.images)}

    def load(self, images: Sequence[str]) -> Features:
        """Return the features (n, R, C) of `images`, in their order.

        Raises `DataError` for an image without features, `ArtefactError` for a damaged row.
        """
        missing = next((image for image in images if image not in self._index), None)
        if missing is not None:
            raise DataError(f"{self.path}: contains no features of {missing}; run `dvc repro extract`")
        return self.read(np.array([self._index[image] for image in images], np.int64))

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Features:
        """Return the features (n, R, C) of `rows`, in their order, each checked against its crc32.

        Raises `ArtefactError` for a damaged row.
        """
        numbers = [int(row) for row in rows]
        features = np.empty((len(numbers), self.regions, self.channels), np.float16)
        for place in self._reading_order(numbers):
            row = numbers[place]
            features[place] = self.features[row]
            if zlib.crc32(features[place].data) != self.crc32[row]:
                raise self._damage(row, "is damaged")
            if not all_finite(features[place]):
                raise self._damage(row, "contains values that are not finite")
        return features

    def _damage(self, row: int, problem: str) -> ArtefactError:
        return ArtefactError(f"{self._file(row)}: the row of {self.images[row]} {problem}; {self._remedy(row)}")

    def _reading_order(self, rows: Sequence[int]) -> Iterable[int]:
        """Return the positions in `rows` in the order in which reading is fastest."""
        return range(len(rows))

    def _file(self, row: int) -> Path:
        """Return the file that contains a row."""
        return self.path

    def _remedy(self, row: int) -> str:
        return REMEDY

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
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
            raise ArtefactError(f"{path}: not a readable features file: {error}; {REMEDY}") from error


def all_finite(features: Features) -> bool:
    """Whether no value is infinite or NaN. Twenty times as fast as `np.isfinite`, which converts each float16."""
    magnitude_bits = features.view(np.uint16) & 0x7FFF
    return bool(magnitude_bits.max(initial=0) < 0x7C00)


def content_digest(spec: EncoderSpec, shape: tuple[int, int], images: Iterable[str], crc32: NDArray[np.uint32]) -> str:
    """Return the hex sha256 over the schema, spec, shape (R, C), ids and checksums of features."""
    header = json.dumps({"schema": SCHEMA, "shape": list(shape), "spec": spec.to_json()}, sort_keys=True)
    digest = hashlib.sha256(header.encode())
    for image in images:
        digest.update(b"\0" + image.encode())  # no path contains a NUL
    digest.update(b"\0\0" + np.ascontiguousarray(crc32, "<u4").tobytes())
    return digest.hexdigest()


def _open(path: Path) -> FeatureFile:
    import h5py

    with h5py.File(path, "r") as file:
        schema = file.attrs.get("schema")
        if schema != SCHEMA:
            raise ArtefactError(f"{path}: schema {schema}, this version reads {SCHEMA}; {REMEDY}")
        features = _contiguous_dataset(file, "features", path)
        shape, dtype, offset = features.shape, features.dtype, features.id.get_offset()
        if len(shape) != 3 or dtype != np.dtype("<f2"):
            raise ArtefactError(f"{path}: features is {dtype} {shape}, expected float16 (N, R, C); {REMEDY}")
        if shape[0] and (offset is None or offset + int(np.prod(shape)) * 2 > path.stat().st_size):
            raise ArtefactError(f"{path}: shorter than its {shape} features; {REMEDY}")
        crc32 = _contiguous_dataset(file, "crc32", path)[()]
        ids = _contiguous_dataset(file, "image", path)[()]
        if crc32.dtype != np.dtype("<u4") or ids.dtype.kind != "S":
            raise ArtefactError(
                f"{path}: crc32 is {crc32.dtype} and image {ids.dtype}, expected uint32, bytes; {REMEDY}"
            )
        if not ids.shape == crc32.shape == shape[:1]:
            raise ArtefactError(f"{path}: {shape[0]} rows, {crc32.size} checksums, {ids.size} ids; {REMEDY}")
        spec = _read_spec(file, path)
        stored = bytes(_contiguous_dataset(file, "sha256", path)[()]).decode()
    rows: Features = np.empty(shape, np.float16)
    if shape[0]:  # a plain array: np.memmap creates an object of its own for each row
        rows = np.memmap(path, dtype, "r", offset, shape).view(np.ndarray)
    found = FeatureFile(path, spec, tuple(image.decode() for image in ids.tolist()), rows, crc32)
    if found.digest() != stored:
        raise ArtefactError(f"{path}: damaged: its spec, ids and checksums do not match their sha256; {REMEDY}")
    return found


def _read_spec(file: Any, path: Path) -> EncoderSpec:
    try:
        return EncoderSpec.from_json(str(file.attrs["spec"]))
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; {REMEDY}") from error


def _contiguous_dataset(file: Any, name: str, path: Path) -> Any:
    """Return a dataset whose bytes are in this file. Links could read any other file of the machine as features."""
    import h5py

    if name not in file or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ArtefactError(f"{path}: has no dataset {name!r} of its own; {REMEDY}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.chunks:
        raise ArtefactError(f"{path}: {name!r} is not one contiguous dataset; {REMEDY}")
    return dataset


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
    layout, offset = _layout(spec, ordered, shape)
    row_bytes = shape[0] * shape[1] * 2
    step = max(1, SLAB_BYTES // row_bytes)
    with replacing(path) as beside, beside.open("rb+", buffering=0) as file, ThreadPoolExecutor() as pool:
        allocate(file, beside, layout.size)
        for place, content in layout.written():
            write_at(file, place, content)

        def fill(start: int) -> list[int]:
            features = np.ascontiguousarray(read([image.decode() for image in ordered[start : start + step]]), "<f2")
            write_at(file, offset["features"] + start * row_bytes, features.data)
            return [zlib.crc32(row.data) for row in features]

        sums = [crc32 for slab in pool.map(fill, range(0, len(ordered), step)) for crc32 in slab]
        crc32 = np.array(sums, "<u4")
        write_at(file, offset["crc32"], crc32.tobytes())
        digest = content_digest(spec, shape, (image.decode() for image in ordered), crc32)
        write_at(file, offset["sha256"], digest.encode())


class _SparseFile(io.RawIOBase):
    """A file in memory that keeps only the pages written to it: HDF5's structures around gigabytes of features.

    HDF5 itself must not write to a disk that may be full: it fails with errors of its own, or crashes.
    """

    _PAGE = 4096

    def __init__(self) -> None:
        self.size = 0
        self._position = 0
        self._pages: dict[int, bytearray] = {}

    def written(self) -> Iterator[tuple[int, bytes]]:
        """Return the offset and content of each written page, in order."""
        for number, page in sorted(self._pages.items()):
            start = number * self._PAGE
            yield start, bytes(page[: max(0, self.size - start)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        for start, end, number, within in self._page_parts(len(view)):
            page = self._pages.setdefault(number, bytearray(self._PAGE))
            page[within : within + end - start] = view[start:end]
        self._position += len(view)
        self.size = max(self.size, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._position)]
        for start, end, number, within in self._page_parts(len(view)):
            page = self._pages.get(number, bytes(self._PAGE))
            view[start:end] = page[within : within + end - start]
        self._position += len(view)
        return len(view)

    def _page_parts(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Split a buffer of `length` at the current position: start and end in it, the page, the offset in the page."""
        start = 0
        while start < length:
            number, within = divmod(self._position + start, self._PAGE)
            end = min(length, start + self._PAGE - within)
            yield start, end, number, within
            start = end


def _layout(spec: EncoderSpec, ids: list[bytes], shape: tuple[int, int]) -> tuple[_SparseFile, dict[str, int]]:
    """Return the file without features, checksums and digest, and the offsets of these."""
    import h5py

    layout = _SparseFile()
    datasets = {"sha256": ((), "S64"), "crc32": ((len(ids),), "<u4"), "features": ((len(ids), *shape), "<f2")}
    with h5py.File(layout, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["spec"] = spec.to_json()
        file.create_dataset("image", data=np.array(ids, f"S{max(map(len, ids), default=1)}"))
        for name, (full_shape, dtype) in datasets.items():
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            creation.set_obj_track_times(False)
            space = h5py.h5s.create_simple(full_shape) if full_shape else h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, creation)
        offset = {name: file[name].id.get_offset() or 0 for name in datasets}
    return layout, offset
