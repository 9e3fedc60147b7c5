"""Headers of JPEG files: which ones a GPU decodes as Pillow does."""

import re

from pipeline.encoders.images import has_text_line_ends

MAX_PIXELS = 64_000_000
"""Pixels that a GPU decodes and resizes together, about 1.5 GB in its memory. Pillow decodes larger images."""
MIN_SIDE = 4
"""Pixels of the corner in which missing data show (`features/gpu_decoding.py`)."""
_SOF0, _SOF2, _DHT, _SOS, _DQT, _DRI, _APP1, _APP14, _COM = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xEE, 0xFE
"""Markers of JPEG: frame headers, tables, the start of the data, metadata."""
_SAMPLING = {0x11, 0x21, 0x22}
"""Luma samples per chroma sample, 4:4:4, 4:2:2 and 4:2:0, as a frame header writes them."""
_ROTATED = re.compile(
    rb"\x01\x12(?=\0[\x01-\x0d]\0\0)(?!\0\x03\0\0\0\x01\0[\0\x01])"  # Exif, big-endian: tag, type, count, value
    rb"|\x12\x01(?=[\x01-\x0d]\0..\0\0)(?!\x03\0\x01\0\0\0[\0\x01]\0)"  # Exif, little-endian
    rb"|tiff:Orientation(?!=\"1|>1)",  # XMP
    re.DOTALL,
)
"""An orientation other than upright in an APP1 segment."""


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that nvImageCodec decodes as Pillow does; None for every other file.

    It has a start and an end, is upright and of at most `MAX_PIXELS` pixels, baseline or progressive, of 8-bit YCbCr in
    the usual kinds of subsampling. Damage between start and end is not looked for.
    """
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9")) or has_text_line_ends(content):
        return None
    place, size = 2, None
    while content[place : place + 1] == b"\xff":
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        segment = content[place + 4 : place + 2 + length]
        if marker == _SOS:
            return size
        if marker in (_SOF0, _SOF2) and size is None:
            size = _frame_size(segment)
            if size is None:
                return None
        elif not (marker in (_DHT, _DQT, _DRI, _COM) or 0xE0 <= marker <= 0xEF):
            return None
        is_other_color = marker == _APP14 and segment.startswith(b"Adobe") and segment[11:12] != b"\x01"
        if is_other_color or (marker == _APP1 and _ROTATED.search(segment)):
            return None
        place += 2 + length
    return None


def padded(length: int) -> int:
    """The number of rows or columns to which a GPU pads images of one batch."""
    return -(-length // 128) * 128


def _frame_size(segment: bytes) -> tuple[int, int] | None:
    if len(segment) < 15 or segment[0] != 8 or segment[5] != 3:  # bits per sample, components
        return None
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    components, samplings = segment[6:15:3], segment[7:15:3]
    is_plain = (
        min(height, width) >= MIN_SIDE
        and padded(height) * padded(width) <= MAX_PIXELS
        and components == bytes([1, 2, 3])
        and samplings[0] in _SAMPLING
        and samplings[1:] == bytes([0x11, 0x11])
    )
    return (height, width) if is_plain else None
