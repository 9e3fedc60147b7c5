"""Picture files in, RGB pixels out: the only place that knows Pillow.

Whatever the file holds (16 bits, a palette, transparency, an EXIF rotation), the result is upright 8-bit RGB; what
cannot be shown so raises `ImageError` with the reason, never anything else.
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
from PIL import __version__ as _VERSION

from pipeline.archives import IMAGE_SUFFIXES
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
SUFFIXES = IMAGE_SUFFIXES
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are unpacked: a few kilobytes can claim terabytes."""
LIBRARY = f"pillow {_VERSION}"
"""What unpacks pictures: with another version a JPEG can have other last bits."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""How far a filter reaches to both sides, in pixels."""


class ImageError(DataError):
    """A picture that cannot be used; the message is the reason alone, and the caller knows the place."""


def decode(content: bytes) -> Image.Image:
    """The first frame of a picture file as upright RGB. Raises `ImageError`."""
    if not content:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise ImageError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS}")
                picture.load()
                return _rgb(ImageOps.exif_transpose(picture))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit comes first where it is passed twice over
        raise ImageError(f"more than the limit of {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not a picture in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's parsers let ValueError, SyntaxError, struct.error and others escape
        raise ImageError(f"damaged: {error or type(error).__name__}") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # convert("RGB") would clip nearly every 16-bit value to white
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in {"I", "F"}:
        values = np.asarray(picture, dtype=np.float64)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        below = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(below, layer).convert("RGB")
    return picture.convert("RGB")


@dataclass(frozen=True)
class Passes:
    """How a picture is scaled, in pixels: of its rows `first` to `last`, the columns `left` to `right` across to the
    result's width; of these, the rows `top` to `bottom` (counted from `first`) down to its height."""

    first: int
    last: int
    left: float
    right: float
    top: float
    bottom: float


def passes(width: int, height: int, *, size: int, shorter_side: int | None, support: float) -> Passes:
    """For a filter that reaches so many pixels (of the result, where that is smaller) to both sides."""
    left, top, right, bottom = 0.0, 0.0, float(width), float(height)
    if shorter_side is not None:
        side = min(width, height) * size / shorter_side
        left, top = max((width - side) / 2, 0), max((height - side) / 2, 0)
        right, bottom = min((width + side) / 2, width), min((height + side) / 2, height)
    reach = support * max((bottom - top) / size, 1.0) + 1
    first, last = max(math.floor(top - reach), 0), min(math.ceil(bottom + reach), height)
    return Passes(first, last, left, right, top - first, bottom - first)


def resize(picture: Image.Image, *, size: int, shorter_side: int | None, interpolation: str) -> NDArray[np.uint8]:
    """Pixels (size, size, 3) of the whole picture, or of the centre that remains when its shorter side is scaled to
    `shorter_side` and `size` is cut out; cropping and scaling are one resampling step.

    Across first, then down. Pillow does so itself, but from version 13 on the other way round where a picture is tall,
    and each pass rounds: asked for one pass at a time, every version gives the same pixels.
    """
    way, support = _RESAMPLING[interpolation], SUPPORT.get(interpolation, 0.0)
    how = passes(*picture.size, size=size, shorter_side=shorter_side, support=support)
    if not support:
        box = (how.left, how.top + how.first, how.right, how.bottom + how.first)
        return np.asarray(picture.resize((size, size), way, box=box))
    height = how.last - how.first
    strip = picture.crop((0, how.first, picture.width, how.last)) if height < picture.height else picture
    narrow = strip.resize((size, height), way, box=(how.left, 0, how.right, height))
    return np.asarray(narrow.resize((size, size), way, box=(0, how.top, size, how.bottom)))


def fitted(picture: Image.Image, transform: Preprocessing) -> NDArray[np.uint8]:
    """The pixels (S, S, 3) that a network with this transform takes; normalisation happens on its device."""
    return resize(
        picture,
        size=transform.size,
        shorter_side=transform.shorter_side,
        interpolation=transform.interpolation,
    )


def to_rgb_image(value: bytes | NDArray[Any] | Image.Image) -> Image.Image:
    """Any picture in memory as upright RGB: a file's bytes, uint8 (H, W) or (H, W, 3), or a Pillow picture.

    Raises `ImageError`."""
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, Image.Image):
        return _rgb(ImageOps.exif_transpose(value))
    if not isinstance(value, np.ndarray):
        raise ImageError(f"a picture is a path, bytes, a Pillow picture or an array, not {type(value).__name__}")
    if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3)):
        raise ImageError(f"an array must be uint8 (H, W) or (H, W, 3), got {value.dtype} {value.shape}")
    return Image.fromarray(np.ascontiguousarray(value)).convert("RGB")


def thumbnail(content: bytes, side: int) -> tuple[str, int, int]:
    """A small JPEG of a picture as a `data:` address, for a page that stands alone; its width and height.

    Raises `ImageError`."""
    picture = decode(content)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), picture.width, picture.height


@dataclass(frozen=True)
class Description:
    """What a picture file holds, as it is stored."""

    width: int
    height: int
    mode: str
    """Pillow's name of the pixels' kind: RGB, L (grey), P (palette), RGBA and so on."""
    format: str


def describe(content: bytes, *, whole: bool) -> Description:
    """Raises `ImageError` for what cannot be used; not `whole` reads the header alone and so finds less."""
    if whole:
        decode(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                return Description(picture.width, picture.height, picture.mode, picture.format or "")
    except Exception as error:
        raise ImageError(f"damaged: {error or type(error).__name__}") from error
