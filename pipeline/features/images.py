"""Picture files in, RGB pixels out: the only place that knows Pillow.

Whatever the file holds (16 bits, a palette, transparency, an EXIF rotation), the result is upright 8-bit RGB; what
cannot be shown so raises `ImageError` with the reason, never anything else.
"""

import base64
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.archives import PICTURES
from pipeline.errors import DataError
from pipeline.features.spec import Transform

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
SUFFIXES = PICTURES
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are unpacked: a few kilobytes can claim terabytes."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


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


def resize(picture: Image.Image, *, size: int, shorter_side: int | None, interpolation: str) -> NDArray[np.uint8]:
    """Pixels (size, size, 3) of the whole picture, or of the centre that remains when its shorter side is scaled to
    `shorter_side` and `size` is cut out; cropping and scaling are one resampling step."""
    box = None
    if shorter_side is not None:
        side = min(picture.size) * size / shorter_side
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (max(left, 0), max(top, 0), min(left + side, picture.width), min(top + side, picture.height))
    resized = picture.resize((size, size), _RESAMPLING[interpolation], box=box)
    return np.asarray(resized)


def fitted(picture: Image.Image, transform: Transform) -> NDArray[np.uint8]:
    """The pixels (S, S, 3) that a network with this transform takes; normalisation happens on its device."""
    return resize(
        picture,
        size=transform.size,
        shorter_side=transform.shorter_side,
        interpolation=transform.interpolation,
    )


def as_picture(value: bytes | NDArray[Any] | Image.Image) -> Image.Image:
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
