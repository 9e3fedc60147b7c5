"""features.h5: the rows of all pictures in one file, the only place that knows h5py.

    features  (N, R, C) float16   contiguous, so that a row is read by np.memmap at a fixed offset
    crc32     (N,)      uint32    of each row's bytes
    image     (N,)      bytes     the pictures' ids in UTF-8, in the order of their bytes
    attributes: spec (the EncoderSpec's canonical JSON), schema

The file is a function of the pictures and the spec alone: the same bytes whatever the order or history.
"""

import hashlib
import io
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError
from pipeline.files import allocate, replacing, write_at

SCHEMA = 1
_SLAB_BYTES = 1 << 20
"""Read, checked and written before the next: small enough to stay in the processor's own memory."""

Rows = NDArray[np.float16]


class RowReader(Protocol):
    """What of an array is needed to read rows one by one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, row: int, /) -> Rows: ...


@dataclass(frozen=True)
class FeatureFile:
    """An open features.h5: ids in memory, rows mapped."""

    path: Path
    spec: EncoderSpec
    images: tuple[str, ...]
    features: Rows | RowReader
    """(N, R, C) float16, memory-mapped."""
    crc32: NDArray[np.uint32]

    @property
    def regions(self) -> int:
        return int(self.features.shape[1])

    @property
    def channels(self) -> int:
        return int(self.features.shape[2])

    def digest(self) -> str:
        """Hex sha256 over the spec, the ids and the checksums of the rows: equal for equal contents."""
        content = hashlib.sha256(self.spec.to_json().encode())
        content.update("\n".join(self.images).encode())
        content.update(np.ascontiguousarray(self.crc32).tobytes())
        return content.hexdigest()

    def index(self) -> dict[str, int]:
        """The row of each picture."""
        return {image: row for row, image in enumerate(self.images)}

    def load(self, images: Sequence[str]) -> Rows:
        """Rows (len(images), R, C) in the order asked for, each checked against its crc32.

        Raises `DataError` for a picture without a row, `ArtefactError` for a damaged row.
        """
        index = self.index()
        rows = np.empty((len(images), self.regions, self.channels), np.float16)
        wanted = [index.get(image, -1) for image in images]
        for place in self._reading_order(wanted):
            row = wanted[place]
            if row < 0:
                raise DataError(f"{self.path}: holds no features of {images[place]}; run `dvc repro extract`")
            rows[place] = self.features[row]
            if zlib.crc32(rows[place].tobytes()) != self.crc32[row]:
                raise ArtefactError(f"{self._file(row)}: the row of {images[place]} is damaged; {self._remedy(row)}")
            if not np.isfinite(rows[place]).all():
                raise ArtefactError(f"{self._file(row)}: the row of {images[place]} is not finite; {self._remedy(row)}")
        return rows

    def _reading_order(self, rows: Sequence[int]) -> Iterable[int]:
        """The places in `rows`, in the order in which they are read best."""
        return range(len(rows))

    def _file(self, row: int) -> Path:
        """Where a row lies."""
        return self.path

    def _remedy(self, row: int) -> str:
        return "run `dvc repro -f extract`"

    @classmethod
    def open(cls, path: Path) -> "FeatureFile":
        """One file, or a folder of shards (see shards.py).

        Raises `ArtefactError` naming what is wrong with the file, `DataError` when there is none.
        """
        import h5py

        if path.is_dir():
            from pipeline.features.shards import open_folder

            return open_folder(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file; run `dvc repro extract` first")
        try:
            with h5py.File(path, "r") as file:
                features = _plain_dataset(file, "features", path)
                checksums = _plain_dataset(file, "crc32", path)[:]
                ids = _plain_dataset(file, "image", path)[:]
                schema = file.attrs.get("schema")
                if schema != SCHEMA:
                    raise ArtefactError(
                        f"{path}: schema {schema}, this program reads {SCHEMA}; run `dvc repro -f extract`"
                    )
                spec = EncoderSpec.from_json(str(file.attrs["spec"]))
                shape, dtype, offset = features.shape, features.dtype, features.id.get_offset()
            if (
                len(shape) != 3
                or dtype != np.dtype("<f2")
                or checksums.dtype != np.dtype("<u4")
                or ids.dtype.kind != "S"
            ):
                raise ArtefactError(f"{path}: features is {dtype} {shape}, expected float16 (N, R, C)")
            if not len(ids) == len(checksums) == shape[0]:
                raise ArtefactError(f"{path}: {shape[0]} rows, {len(checksums)} checksums, {len(ids)} ids")
            if shape[0] and (offset is None or offset + int(np.prod(shape)) * 2 > path.stat().st_size):
                raise ArtefactError(f"{path}: shorter than its {shape} features; run `dvc repro -f extract`")
            images = tuple(value.decode() for value in ids)
            if any(first >= second for first, second in pairwise(ids)):
                raise ArtefactError(f"{path}: the ids are not in order; run `dvc repro -f extract`")
            rows: Rows = np.empty(shape, np.float16)
            if shape[0]:  # as a plain array: np.memmap makes an object of its own for each row that is asked for
                rows = np.memmap(path, dtype, "r", offset, shape).view(np.ndarray)
        except ArtefactError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise ArtefactError(f"{path}: not a readable features file: {error}; run `dvc repro -f extract`") from error
        return cls(path, spec, images, rows, checksums)


def _plain_dataset(file: Any, name: str, path: Path) -> Any:
    """A dataset whose bytes lie in this very file. Others could read any file of the machine into the features."""
    import h5py

    if name not in file or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ArtefactError(f"{path}: has no dataset {name!r} of its own; run `dvc repro -f extract`")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.chunks:
        raise ArtefactError(f"{path}: {name!r} is not one contiguous dataset; run `dvc repro -f extract`")
    return dataset


def ids_of(images: Iterable[str]) -> NDArray[np.bytes_]:
    """Ids in UTF-8, (n,), some bytes each where a list of texts takes a hundred."""
    parts, rest = [np.empty(0, "S1")], iter(images)
    while part := [image.encode() for image in islice(rest, 1 << 14)]:
        parts.append(np.array(part))
    return np.concatenate(parts)


def write_feature_file(
    path: Path,
    spec: EncoderSpec,
    images: Iterable[str],
    shape: tuple[int, int],
    read: Callable[[Sequence[str], Rows], NDArray[np.uint32]],
) -> None:
    """Replace `path` by the rows of `images` in the order of their bytes.

    `read` fills rows (n, R, C) with (R, C) = `shape` and gives the crc32 of each; several threads call it. The file
    is made whole first and then filled: a full disk is an error of the system, not a crash inside HDF5.
    Raises `DiskError`.
    """
    ordered = ids_of(images)
    if len(ordered) > 1 and not (ordered[1:] > ordered[:-1]).all():
        ordered = np.unique(ordered)
    layout, offset = _layout(spec, ordered, shape)
    row_bytes = shape[0] * shape[1] * 2
    per_slab = max(1, _SLAB_BYTES // row_bytes)
    slab = threading.local()  # fresh memory for each would cost more than what is done with it
    with replacing(path) as beside, beside.open("rb+", buffering=0) as file, ThreadPoolExecutor() as pool:
        allocate(file, beside, layout.size)
        for place, content in layout.written():
            write_at(file, place, content)

        def fill(start: int) -> None:
            if not hasattr(slab, "rows"):
                slab.rows = np.empty((per_slab, *shape), "<f2")
            images = [image.decode() for image in ordered[start : start + per_slab].tolist()]
            rows = slab.rows[: len(images)]
            sums = read(images, rows)
            write_at(file, offset["features"] + start * row_bytes, rows.data)
            write_at(file, offset["crc32"] + start * 4, sums.astype("<u4").tobytes())

        for _ in pool.map(fill, range(0, len(ordered), per_slab)):
            pass


class _Layout(io.RawIOBase):
    """A file in memory that holds only the pages that were written: what HDF5 needs around gigabytes of rows.

    HDF5 itself must not write to a disk that may be full: it ends in its own errors then, or in a crash.
    """

    _PAGE = 4096

    def __init__(self) -> None:
        self.size = 0
        self._place = 0
        self._pages: dict[int, bytearray] = {}

    def written(self) -> Iterator[tuple[int, bytes]]:
        """The place and content of each page that was written, in order."""
        for number, page in sorted(self._pages.items()):
            place = number * self._PAGE
            yield place, bytes(page[: max(0, self.size - place)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self.size = self._place if size is None else size
        return self.size

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        for start, end, number, within in self._parts(len(view)):
            page = self._pages.setdefault(number, bytearray(self._PAGE))
            page[within : within + end - start] = view[start:end]
        self._place += len(view)
        self.size = max(self.size, self._place)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._place)]
        for start, end, number, within in self._parts(len(view)):
            page = self._pages.get(number, bytes(self._PAGE))
            view[start:end] = page[within : within + end - start]
        self._place += len(view)
        return len(view)

    def _parts(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Start and end within a buffer of `length` at the current place, the page, and the place within it."""
        start = 0
        while start < length:
            number, within = divmod(self._place + start, self._PAGE)
            end = min(length, start + self._PAGE - within)
            yield start, end, number, within
            start = end


def _layout(spec: EncoderSpec, ordered: NDArray[np.bytes_], shape: tuple[int, int]) -> tuple[_Layout, dict[str, int]]:
    """Everything of the file but the rows and checksums, and where those belong."""
    import h5py

    layout = _Layout()
    with h5py.File(layout, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["spec"] = spec.to_json()
        width = int(np.strings.str_len(ordered).max(initial=1))
        file.create_dataset("image", data=ordered.astype(f"S{width}"))
        for name, full_shape, dtype in (("crc32", (len(ordered),), "<u4"), ("features", (len(ordered), *shape), "<f2")):
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            creation.set_obj_track_times(False)
            space = h5py.h5s.create_simple(full_shape)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, creation)
        offset = {name: file[name].id.get_offset() or 0 for name in ("crc32", "features")}
    return layout, offset
