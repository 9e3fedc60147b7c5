"""Pictures on their way to rows: what the ways of encoding them share."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.archives import read_image_bytes
from pipeline.encoders import images
from pipeline.features.feature_file import Rows

Unpacked = TypeVar("Unpacked")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file as `prepare` found it."""

    image: str
    """Its id: the path below the image folder."""
    path: Path
    sha256: str


Batch = tuple[int, list[Picture]]
"""Pictures to encode, and the place in the new shard of the first; the others follow."""
Encoded = tuple[list[int], Rows | None, dict[str, str]]
"""The places of the rows, the rows (n, R, C), and the reason for each sha256 without one."""


def unpacked(
    batch: Batch, unpack: Callable[[bytes, Picture], Unpacked]
) -> tuple[list[int], list[Unpacked], dict[str, str]]:
    """Of each picture that can be used its place and what `unpack` makes of its file, of the others' sha256 the reason.

    `unpack` may raise `images.ImageError`.
    """
    places, found, bad = [], [], {}
    for place, picture in enumerate(batch[1], start=batch[0]):
        try:
            content = read_image_bytes(picture.path)
            if hashlib.sha256(content).hexdigest() != picture.sha256:
                raise images.ImageError("changed since `prepare` read it; run `dvc repro` again")
            found.append(unpack(content, picture))
            places.append(place)
        except OSError as error:
            bad[picture.sha256] = f"cannot be read: {error.strerror}"
        except images.ImageError as error:
            bad[picture.sha256] = str(error)
    return places, found, bad
