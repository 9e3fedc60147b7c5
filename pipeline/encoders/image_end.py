"""Detects files that hold another image behind the first one, as `cat a.jpg b.jpg` writes them."""

import re

from pipeline.file_signatures import IMAGE_START

_NEXT_IMAGE = b"(?!.{4}ftyp)(?:" + IMAGE_START.pattern + b")"  # a video may follow
_JPEG = re.compile(rb"\xff\xd9" + _NEXT_IMAGE, re.DOTALL)  # also behind the end of a thumbnail, where no image follows
_PNG = re.compile(rb"IEND\xaeB\x60\x82" + _NEXT_IMAGE, re.DOTALL)
_WEBP = re.compile(_NEXT_IMAGE, re.DOTALL)
_PARTS = re.compile(rb"\xff\xe2..MPF\0|ns\.google\.com/photos/", re.DOTALL)
"""Segments of a JPEG that list images behind it as parts of the same photo: another eye, depth, brightness."""


def holds_several_images(content: bytes) -> bool:
    """Whether another image follows directly after the end of a JPEG, PNG or WebP image.

    Photos of several parts are one image: JPEG with an index of its parts, and photos with a video behind them.
    """
    if content.startswith(b"RIFF"):  # WebP states its size
        return _WEBP.match(content, 8 + int.from_bytes(content[4:8], "little")) is not None
    if content.startswith(b"\x89PNG"):
        return _PNG.search(content) is not None
    return content.startswith(b"\xff\xd8\xff") and bool(_JPEG.search(content)) and not _PARTS.search(content)
