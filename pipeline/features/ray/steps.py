"""The steps that Ray runs on blocks of pictures: decode (tasks), encode (actors), and write each block as one shard."""

import hashlib
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem
from ray.data.datasource import BlockBasedFileDatasink, FilenameProvider

from pipeline.encoders import images
from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import Rows, write_feature_file
from pipeline.features.ray.jobs import SKIPPED_COLUMNS, Plan
from pipeline.features.ray.sources import read_source
from pipeline.files import write_csv

READERS = 8
"""Threads that wait for files or servers in one decoding task."""


def decode(pictures: pa.Table, transform: Preprocessing) -> pa.Table:
    """id, image, path → the same, pixels (S * S * 3 bytes) and the reason for a picture that has none."""
    rows = pictures.to_pylist()
    pixels = np.zeros((len(rows), transform.size, transform.size, 3), np.uint8)
    reasons = []
    with ThreadPoolExecutor(READERS) as pool:
        for place, found in enumerate(pool.map(_content, rows)):
            try:
                pixels[place] = images.fitted(images.decode(_or_raise(found)), transform)
                reasons.append("")
            except OSError as error:
                reasons.append(f"cannot be read: {error.strerror or error}")
            except images.ImageError as error:
                reasons.append(str(error))
    return (
        pictures.drop_columns(["sha256"])
        .append_column("reason", pa.array(reasons, pa.large_string()))
        .append_column("pixels", _as_column(pixels))
    )


def _content(row: dict[str, Any]) -> bytes | Exception:
    """The bytes of a picture, or what is wrong with it."""
    try:
        content = read_source(row["path"])
    except OSError as error:
        return error
    if row["sha256"] and hashlib.sha256(content).hexdigest() != row["sha256"]:
        return images.ImageError("changed since the manifest was made: its sha256 is another")
    return content


def _or_raise(found: bytes | Exception) -> bytes:
    if isinstance(found, Exception):
        raise found
    return found


class Encode:
    """An actor with the encoder: pixels → features (R * C float16)."""

    def __init__(self, spec: EncoderSpec, tensors: "ray.ObjectRef[bytes]", device: str, engine: str) -> None:
        from safetensors.torch import load

        from pipeline.device import choose_device
        from pipeline.encoders.encoder import restore

        self._encoder = restore(spec, load(ray.get(tensors)), choose_device(device))
        self._engine = engine

    def __call__(self, pictures: pa.Table) -> pa.Table:
        from pipeline.device import single_threaded

        encoder = self._encoder
        if encoder.engine != self._engine:
            raise ArtefactError(
                f"the machines of the cluster differ: {encoder.engine} here, {self._engine} elsewhere, and so would "
                "the last bits of their rows; use nodes of one kind"
            )
        side = encoder.spec.transform.size
        usable = np.array([not reason for reason in pictures["reason"].to_pylist()], bool)
        rows = np.zeros((len(usable), encoder.regions, encoder.channels), np.float16)
        if usable.any():
            pixels = _from_column(pictures["pixels"], np.uint8, (side, side, 3))
            with single_threaded():
                rows[usable] = encoder.encode(pixels[usable])
        return pictures.drop_columns(["pixels"]).append_column("features", _as_column(rows))


class ShardSink(BlockBasedFileDatasink):  # type: ignore[misc]  # Ray has no types here
    """Writes each block as one shard, beside its name and then renamed: a killed task leaves no part of one."""

    def __init__(self, folder: str, plan: Plan) -> None:
        super().__init__(folder, filesystem=LocalFileSystem(), filename_provider=FilenameProvider(file_format="h5"))
        self._plan = plan

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        plan = self._plan
        pictures = pa.concat_tables(blocks)
        if not pictures.num_rows:
            return
        ids = pictures["id"].to_numpy()
        number = int(ids[0]) // plan.shard_pictures
        start = number * plan.shard_pictures
        if not np.array_equal(ids, np.arange(start, start + plan.size(number))):
            raise RuntimeError(f"Ray did not keep the order: {len(ids)} pictures from {ids[0]} to {ids[-1]} in a block")
        task = self.filename_provider.get_filename_for_task(ctx.kwargs["write_uuid"], ctx.task_idx)
        path = Path(self.unresolved_path) / f"{Path(task).stem}-{number:06d}.h5"
        _write_shard(path, plan, pictures)


def _write_shard(path: Path, plan: Plan, pictures: pa.Table) -> None:
    names, reasons = pictures["image"].to_pylist(), pictures["reason"].to_pylist()
    features = _from_column(pictures["features"], np.float16, plan.shape)
    place = {image: number for number, (image, reason) in enumerate(zip(names, reasons, strict=True)) if not reason}
    bad = [number for number, reason in enumerate(reasons) if reason]
    if bad:
        paths = pictures["path"].to_pylist()
        rows = [(names[number], paths[number], reasons[number]) for number in bad]
        write_csv(path.with_suffix(".skipped.csv"), SKIPPED_COLUMNS, rows)

    def read(images: Iterable[str], rows: Rows) -> NDArray[np.uint32]:
        rows[:] = features[[place[image] for image in images]]
        return np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)

    write_feature_file(path, plan.spec, place, plan.shape, read)


def _as_column(values: NDArray[Any]) -> pa.Array:
    """Rows of any shape as bytes of one length each, without a copy."""
    width = int(np.prod(values.shape[1:])) * values.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def _from_column(column: pa.ChunkedArray, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    values: NDArray[Any] = np.concatenate(parts).view(dtype)
    return values.reshape(-1, *shape)
