"""The layout of features.h5: its header, and HDF5's structures around the features.

    header   4096 bytes   JSON (schema, spec, shape (N, R, C), bytes of an id, offsets of the three arrays), padded; its
                          last 64 bytes are the hex sha256 of every other byte of the file outside the features
    HDF5     the rest     see `feature_file`

The header is HDF5's user block, which other programs skip. This program reads the header and never HDF5's structures:
on a damaged one the library can loop forever without reacting to signals.

N images, R regions, C channels.
"""

import hashlib
import io
import json
import os
from dataclasses import asdict, dataclass
from typing import Annotated, Any, BinaryIO, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError
from pipeline.options import first_error

SCHEMA: Literal[2] = 2
HEADER_BYTES = 4096
DIGEST_BYTES = 64
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK = 1 << 20
_Count = Annotated[int, Field(ge=0, lt=2**60)]
_Size = Annotated[int, Field(ge=1, lt=2**60)]
_Offset = Annotated[int, Field(ge=HEADER_BYTES, lt=2**60)]


@dataclass(frozen=True)
class Header:
    """Where everything is in the file."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    spec: str
    """The EncoderSpec's canonical JSON."""
    shape: tuple[_Count, _Size, _Size]
    id_bytes: _Size
    """Bytes of an image id, padded with zeros."""
    image: _Offset
    """Offset of the ids, as the next two."""
    crc32: _Offset
    features: _Offset
    schema: Literal[2] = SCHEMA

    @property
    def feature_bytes(self) -> int:
        images, regions, channels = self.shape
        return images * regions * channels * 2

    @property
    def size(self) -> int:
        """The smallest possible size of the file."""
        images = self.shape[0]
        return max(self.image + images * self.id_bytes, self.crc32 + images * 4, self.features + self.feature_bytes)

    def pack(self) -> bytes:
        """Return the header without its digest."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        room = HEADER_BYTES - DIGEST_BYTES
        if len(content) > room:
            raise DataError(f"the encoder spec is {len(content):,} bytes long, {room:,} are allowed; use shorter names")
        return content.ljust(room)

    @staticmethod
    def unpack(header: bytes) -> "Header":
        """Parse the first `HEADER_BYTES` of a file. Raises `ArtefactError` with the reason alone."""
        if header.startswith(HDF5_SIGNATURE):
            raise ArtefactError("an HDF5 file of version 0.1 or of another program")
        try:
            return TypeAdapter(Header).validate_json(header[:-DIGEST_BYTES], strict=True)
        except ValidationError as error:
            raise ArtefactError(f"not a features file of captioner's schema {SCHEMA}: {first_error(error)}") from error


def digest_outside_features(file: BinaryIO, header: Header) -> str:
    """Return the hex sha256 of the file without its features and without the digest itself."""
    end = header.features + header.feature_bytes
    parts = ((0, HEADER_BYTES - DIGEST_BYTES), (HEADER_BYTES, header.features), (end, os.fstat(file.fileno()).st_size))
    digest = hashlib.sha256()
    for start, stop in parts:
        file.seek(start)
        while start < stop and (chunk := file.read(min(_CHUNK, stop - start))):
            digest.update(chunk)
            start += len(chunk)
    return digest.hexdigest()


def make_layout(spec: EncoderSpec, ids: list[bytes], shape: tuple[int, int]) -> tuple[bytes, Header]:
    """Return the bytes before the features in the file, without checksums and digest, and the header.

    The bytes depend on the arguments alone. They are made in memory, because on a full disk HDF5 raises errors that
    do not say so, or crashes. Raises `DataError` for a spec that is too long.
    """
    import h5py

    layout = io.BytesIO()  # grows only as far as HDF5 writes, which is not into the arrays
    images = np.array(ids, f"S{max(map(len, ids), default=1)}")
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": (images.shape, images.dtype),
        "crc32": ((len(ids),), "<u4"),
        "features": ((len(ids), *shape), "<f2"),
    }
    with h5py.File(layout, "w", userblock_size=HEADER_BYTES) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["spec"] = spec.to_json()
        for name, (full_shape, dtype) in arrays.items():
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            creation.set_obj_track_times(False)
            space = h5py.h5s.create_simple(full_shape)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, creation)
        image, crc32, features = (file[name].id.get_offset() if ids else HEADER_BYTES for name in arrays)
    header = Header(spec.to_json(), (len(ids), *shape), images.dtype.itemsize, image, crc32, features)
    for place, content in ((0, header.pack()), (header.image, images.tobytes())):
        layout.seek(place)
        layout.write(content)
    content = layout.getvalue()
    if header.feature_bytes and len(content) > header.features:
        raise DataError(f"h5py {h5py.__version__} does not store the features last; install another version")
    return content, header
