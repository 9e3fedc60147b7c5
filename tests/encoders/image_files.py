"""Image files in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, form="PNG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png_file(width, height, *, depth=8, color=2, interlaced=0, transparent=b"", pixels):
    """A PNG file whose compressed pixels are complete as a stream, however few they are.

    `transparent` is the content of a chunk tRNS: the color that is transparent.
    """

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(768)) if color == 3 else b""
    palette += chunk(b"tRNS", transparent) if transparent else b""
    body = palette + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body
