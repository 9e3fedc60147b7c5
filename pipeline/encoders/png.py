"""Detects PNG files whose compressed pixels end early. Pillow fills the missing rows with zeros and reports nothing."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By color type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7 interlacing: first column, first row, column step, row step."""
_STEP = 1 << 20


def missing_bytes(content: bytes) -> int:
    """Return how many bytes of pixels a PNG file lacks; 0 for a complete one.

    It decompresses the pixels in constant memory. Raises `ValueError`, `IndexError` or `zlib.error` for a damaged file.
    """
    expected = _pixel_bytes(content)
    stream, found = zlib.decompressobj(), 0
    for part in _compressed_parts(content):
        found += len(stream.decompress(part, _STEP))
        while stream.unconsumed_tail and found < expected:
            found += len(stream.decompress(stream.unconsumed_tail, _STEP))
        if stream.eof or found >= expected:
            break
    return max(0, expected - found)


def _pixel_bytes(content: bytes) -> int:
    """The size of the pixels before compression: each row has a filter byte before it."""
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    depth, color, interlaced = content[24], content[25], content[28]
    if color not in _CHANNELS:
        raise ValueError(f"color type {color}")
    bits = depth * _CHANNELS[color]
    total = 0
    for left, top, right_step, down_step in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right_step), -(-(height - top) // down_step)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _compressed_parts(content: bytes) -> Iterator[bytes]:
    """The content of the IDAT chunks."""
    place = len(SIGNATURE)
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        if kind == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        elif kind == b"IEND":
            return
        place += 12 + length
