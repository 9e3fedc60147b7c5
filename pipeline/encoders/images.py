"""Image decoding and preprocessing: the only module that uses Pillow to read files.

Whatever an image file holds (16 bits, a palette, transparency, an EXIF orientation), the result is an upright 8-bit
RGB image. A file that cannot be decoded raises `ImageError` with the reason, and never another exception.

S is the side of the encoder's square input, in pixels.
"""

import base64
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as _PILLOW_VERSION

from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decompressed: a file of a few kilobytes can claim terabytes."""
LIBRARY = f"pillow {_PILLOW_VERSION}"
"""The decoder. Another version may decode a JPEG to pixels that differ in their last bits."""
BACKGROUND = (255, 255, 255)
"""RGB color behind transparent pixels."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
FILTER_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Radius of each resampling filter, in pixels."""


class ImageError(DataError):
    """An image that cannot be used. The message is the reason alone; the caller adds the path."""


def decode_image(content: bytes) -> Image.Image:
    """Decode the first frame of an image file to upright RGB. Raises `ImageError`."""
    if not content:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS}")
                image.load()
                return _convert_to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own check comes first above twice its limit
        raise ImageError(f"more than the limit of {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's parsers raise ValueError, SyntaxError, struct.error and others
        raise ImageError(f"damaged: {error or type(error).__name__}") from error


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("RGB") would clip nearly every 16-bit value to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def to_rgb_image(value: bytes | NDArray[Any] | Image.Image) -> Image.Image:
    """Convert an image in memory to upright RGB: a file's bytes, a uint8 array (H, W) or (H, W, 3), or a Pillow image.

    Raises `ImageError`.
    """
    if isinstance(value, bytes):
        return decode_image(value)
    if isinstance(value, Image.Image):
        return _convert_to_rgb(ImageOps.exif_transpose(value))
    if not isinstance(value, np.ndarray):
        raise ImageError(f"an image must be a path, bytes, a Pillow image or an array, not {type(value).__name__}")
    if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3)):
        raise ImageError(f"an array must be uint8 (H, W) or (H, W, 3), got {value.dtype} {value.shape}")
    return Image.fromarray(np.ascontiguousarray(value)).convert("RGB")


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def crop_box(preprocessing: Preprocessing, width: int, height: int) -> Box:
    """Return the part of a `width` x `height` image that preprocessing scales to S x S.

    It is the whole image for `fit: stretch`. For `fit: crop` it is the center square whose side is S / `shorter_side`
    of the image's shorter side, clipped to the image where S exceeds `shorter_side`.
    """
    if preprocessing.shorter_side is None:
        return Box(0.0, 0.0, float(width), float(height))
    side = min(width, height) * preprocessing.size / preprocessing.shorter_side
    return Box(
        left=max((width - side) / 2, 0.0),
        top=max((height - side) / 2, 0.0),
        right=min((width + side) / 2, float(width)),
        bottom=min((height + side) / 2, float(height)),
    )


def visible_region(preprocessing: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what the encoder sees, as shares (0 to 1) of the upright image's sides."""
    box = crop_box(preprocessing, width, height)
    return box.left / width, box.top / height, box.right / width, box.bottom / height


@dataclass(frozen=True)
class ResizePasses:
    """The two passes of a resize, in pixels.

    The first pass scales columns `left` to `right` of rows `first_row` to `last_row` to the output's width. The second
    pass scales rows `top` to `bottom`, counted from `first_row`, to its height.
    """

    first_row: int
    last_row: int
    left: float
    right: float
    top: float
    bottom: float


def resize_passes(preprocessing: Preprocessing, width: int, height: int) -> ResizePasses:
    """Return the passes that scale a `width` x `height` image to S x S; rows that the filter cannot reach are left out.

    The interpolation must be in `FILTER_SUPPORT`.
    """
    box = crop_box(preprocessing, width, height)
    support = FILTER_SUPPORT[preprocessing.interpolation]
    radius = support * max((box.bottom - box.top) / preprocessing.size, 1.0) + 1
    first, last = max(math.floor(box.top - radius), 0), min(math.ceil(box.bottom + radius), height)
    return ResizePasses(first, last, box.left, box.right, box.top - first, box.bottom - first)


def preprocess_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Crop and resize an RGB image to the encoder's input, uint8 (S, S, 3). The encoder normalizes it on its device.

    Cropping and resizing are one resampling step. The image is scaled horizontally first, then vertically. Pillow
    does the same by itself, but scales tall images vertically first from version 13 on, and each pass rounds; with
    one pass per call, every version returns the same pixels.
    """
    size, resampling = preprocessing.size, _RESAMPLING[preprocessing.interpolation]
    if preprocessing.interpolation not in FILTER_SUPPORT:
        box = crop_box(preprocessing, *image.size)
        return np.asarray(image.resize((size, size), resampling, box=(box.left, box.top, box.right, box.bottom)))
    passes = resize_passes(preprocessing, *image.size)
    height = passes.last_row - passes.first_row
    rows = image
    if height < image.height:
        rows = image.crop((0, passes.first_row, image.width, passes.last_row))
    narrow = rows.resize((size, height), resampling, box=(passes.left, 0, passes.right, height))
    return np.asarray(narrow.resize((size, size), resampling, box=(0, passes.top, size, passes.bottom)))


def thumbnail(content: bytes, side: int) -> tuple[str, int, int]:
    """Return a JPEG of at most `side` pixels per side as a `data:` URL, its width and its height.

    Raises `ImageError`.
    """
    image = decode_image(content)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width, image.height


@dataclass(frozen=True)
class ImageDescription:
    """Size and format of an image as stored in its file."""

    width: int
    height: int
    mode: str
    """Pillow's name of the pixel format: RGB, L (gray), P (palette), RGBA and so on."""
    format: str


def describe_image(content: bytes, *, header_only: bool = False) -> ImageDescription:
    """Read an image file's size and format. Raises `ImageError` for a file that cannot be decoded.

    With `header_only` the pixels are not decoded, so that damage after the header goes unnoticed.
    """
    if not header_only:
        decode_image(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return ImageDescription(image.width, image.height, image.mode, image.format or "")
    except Exception as error:
        raise ImageError(f"damaged: {error or type(error).__name__}") from error
