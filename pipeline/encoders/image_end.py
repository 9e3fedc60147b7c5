"""Detects files that hold another image behind the first one, as `cat a.jpg b.jpg` writes them."""

import re

from pipeline.file_signatures import is_image

_ENDS = {b"\xff\xd8\xff": re.compile(rb"\xff\xd9"), b"\x89PNG": re.compile(rb"IEND\xaeB\x60\x82")}
"""The end of an image by its start."""
_PARTS = re.compile(rb"\xff\xe2..MPF\0|ns\.google\.com/photos/", re.DOTALL)
"""Segments of a JPEG that list images behind it as parts of the same photo: another eye, depth, brightness."""


def holds_several_images(content: bytes) -> bool:
    """Whether another image follows directly after the end of a JPEG, PNG or WebP image.

    Photos of several parts are one image: JPEG with an index of its parts, and photos with a video behind them.
    """
    if content.startswith(b"RIFF"):  # WebP states its size
        ends = [8 + int.from_bytes(content[4:8], "little")]
    else:  # also the ends of thumbnails, which no image follows
        end = next((end for start, end in _ENDS.items() if content.startswith(start)), None)
        ends = [found.end() for found in end.finditer(content)] if end else []
    following = [content[end : end + 16] for end in ends]
    return any(is_image(head) and head[4:8] != b"ftyp" for head in following) and not _PARTS.search(content)
