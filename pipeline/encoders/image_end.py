"""Detects files that hold another image behind the first one, as `cat a.jpg b.jpg` writes them."""

import re

from pipeline.file_signatures import is_image

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""All but the markers within compressed pixels."""
_END_OF_JPEG = b"\xd9"
_PARTS = re.compile(rb"^MPF\0|ns\.google\.com/photos/")
"""In segments that list images behind the first one as parts of the same photo: another eye, depth, brightness."""
_END_OF_PNG = b"IEND\xaeB\x60\x82"


def holds_several_images(content: bytes) -> bool:
    """Whether another image follows directly after the end of a JPEG, PNG or WebP image.

    Photos of several parts are one image: JPEG with an index of its parts, and photos with a video behind them.
    """
    end = _end(content)
    follows = content[end : end + 16]
    return is_image(follows) and follows[4:8] != b"ftyp"


def _end(content: bytes) -> int:
    """The position after the image; that of the end of the file where it is unknown."""
    if content.startswith(b"\xff\xd8\xff"):
        return _end_of_jpeg(content)
    if content.startswith(b"\x89PNG") and _END_OF_PNG in content:
        return content.index(_END_OF_PNG) + len(_END_OF_PNG)
    if content.startswith(b"RIFF"):
        return 8 + int.from_bytes(content[4:8], "little")
    return len(content)


def _end_of_jpeg(content: bytes) -> int:
    """The position after the end marker; that of the end of the file for a photo of several parts."""
    place = 2  # segments are passed over by their length: a thumbnail has an end of its own
    while marker := _JPEG_MARKER.search(content, place):
        if marker[1] == _END_OF_JPEG:
            return marker.end()
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
        if _PARTS.search(content[marker.end() + 2 : place]):
            break
    return len(content)
