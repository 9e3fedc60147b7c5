"""Image decoding and preprocessing: the only module that uses Pillow to read files.

Whatever an image file holds (10 to 16 bits, floats, a palette, transparency, an EXIF orientation), the result is an
upright 8-bit RGB image. A file that cannot be decoded, or whose range of values is unknown, raises `ImageError` with
the reason, and never another exception.

S is the side of the encoder's square input, in pixels.
"""

import base64
import errno
import hashlib
import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as _PILLOW_VERSION

from pipeline.encoders import png
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DataError, DiskError, ParamsError
from pipeline.file_signatures import IMAGE_START, other_content

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
"""The formats that Pillow reads. HEIC is read where the extra `heif` is installed."""
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decompressed: a file of a few kilobytes can claim terabytes."""
LIBRARY = f"pillow {_PILLOW_VERSION}"
"""The decoder. Another version may decode a JPEG to pixels that differ in their last bits."""
BACKGROUND = (255, 255, 255)
"""RGB color behind transparent pixels."""
_JPEG, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"

_LINK = re.compile(rb"[^\0-\x1f]{1,500}\.[A-Za-z]{3,4}")
"""What git writes for a symbolic link where links are off, as on Windows."""
_MIN_LINE_FEEDS = 32
"""Fewer could all be of a text in the file, such as its metadata."""
_STRIP_PIXELS = 1 << 22
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_BIT_DEPTHS = (8, 10, 12, 14, 16, 18, 20, 24, 28, 32)
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _MAX_SAMPLE_VALUE = 254, 258, 259, 262, 281
_PLANAR_CONFIGURATION, _EXTRA_SAMPLES = 284, 338
"""Tags of TIFF."""
_COLORS = {"RGB": 3, "RGBA": 3, "LA": 1}
"""Bands without opacity of modes whose colors may have 16 bits in the file. CMYK is left out: its zeros are white."""
_FILTERS = {"bilinear": (Image.Resampling.BILINEAR, 1.0), "bicubic": (Image.Resampling.BICUBIC, 2.0)}
"""Resampling filters and their radius in pixels of the result."""
_MACHINE_FAILS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE})
"""Errors of reading that are no fault of the file."""


class ImageError(DataError):
    """An image that cannot be used. The message is the reason alone; the caller adds the path."""


def decode_image(content: bytes, *, fill_truncated: bool = False) -> Image.Image:
    """Decode the first frame of an image file to upright RGB. Raises `ImageError`.

    With `fill_truncated`, a JPEG that ends too early is gray where its pixels are missing, and no error.
    """
    if fill_truncated and content.startswith(_JPEG):
        content += _END_OF_JPEG  # ignored behind the end of a complete file
    with _open(content) as image:
        _load(image)
        if image.format == "PNG" and _may_be_cut(image) and (missing := png.missing_bytes(content)):
            raise ImageError(f"damaged: truncated: {missing:,} bytes of its pixels are missing")
        if image.format in {"JPEG", "WEBP"} and has_text_line_ends(content):
            raise ImageError("damaged: its line feeds were changed as those of a text; copy it again in binary mode")
        if image.format == "JPEG" and not fill_truncated and _lacks_rows(image, content):
            raise ImageError("damaged: truncated: its last rows are missing")
        _make_upright(image)
        return _convert_to_rgb(image, _tiff_tags(image))


def _make_upright(image: Image.Image) -> None:
    """Rotate or mirror an image as its EXIF orientation says. Metadata that cannot be read are ignored."""
    with suppress(Exception):
        image.getexif()  # keeps what it read
    for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)  # otherwise they are written again, which fails for unusual tags
    ImageOps.exif_transpose(image, in_place=True)


@contextmanager
def _open(content: bytes) -> Iterator[Image.Image]:
    """Context manager: yields an image of at most `MAX_PIXELS` pixels. Errors in the block become `ImageError`."""
    if not content:
        raise ImageError("the file is empty")
    with _image_errors():
        try:
            image = _open_heic(content) if _is_heic(content) else Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            if words := other_content(content):
                raise ImageError(words) from error
            if _LINK.fullmatch(content):
                raise ImageError("a path in the place of a symbolic link; copy the image there") from error
            if IMAGE_START.match(content):
                raise ImageError("damaged, or of an unsupported kind; convert it to JPEG or PNG") from error
            raise ImageError(f"not an image in one of the formats {', '.join(FORMATS)}, HEIC") from error
        with image:
            _check_size(image)
            yield image


class _NoWarnings:
    """Context manager: no warning is shown. Of threads that overlap, the first one ignores warnings and the last one
    restores the filters; with Python's own context manager warnings could stay ignored.
    """

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._filters.__exit__(None, None, None)


_no_warnings = _NoWarnings()


@contextmanager
def _image_errors() -> Iterator[None]:
    """Context manager: every error of Pillow becomes an `ImageError`, and no warning is shown."""
    try:
        with _no_warnings:
            yield
    except ImageError:
        raise
    except MemoryError as error:  # not the image's fault
        raise ParamsError("not enough memory to decode an image; lower params.run.workers") from error
    except Image.DecompressionBombError as error:  # Pillow's own check comes first above twice its limit
        raise ImageError(f"more than the limit of {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's parsers raise ValueError, SyntaxError, struct.error and others
        if "MAX_TEXT_" in str(error):
            raise ImageError("its metadata are too large to be read; save it without them") from error
        raise ImageError(f"damaged: {str(error).strip() or type(error).__name__}") from error


def _open_heic(content: bytes) -> Image.Image:
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise ImageError(
            "a HEIC image: run `pip install -e '.[heif]'` in the checkout, or convert it to JPEG"
        ) from error
    image: Image.Image = HeifImageFile(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return image


def _is_heic(content: bytes) -> bool:
    """Whether a file's first box names a brand of HEIC and not AVIF, which shares some of them."""
    brands = content[8 : int.from_bytes(content[:4])]
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS and b"avif" not in brands


def _check_size(image: Image.Image) -> None:
    if not image.width * image.height:
        raise ImageError("an image without pixels")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}")


def _load(image: Image.Image) -> None:
    """Read the pixels of an open image. Raises `ImageError` for those that Pillow does not read as they are meant."""
    tags = _tiff_tags(image)
    if tags.get(_NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageError("a preview of reduced resolution, as in a camera raw file; convert it to JPEG")
    is_planar = tags.get(_PLANAR_CONFIGURATION) == 2 and tags.get(_COMPRESSION, 1) == 1
    if is_planar and max(tags.get(_BITS_PER_SAMPLE, ())[1:], default=8) > 8:
        raise ImageError("16-bit colors in separate planes; convert it with `tiffcp -p contig OLD NEW`")
    has_deep_colors = image.mode in _COLORS and ";16" in str(getattr(image, "tile", ""))
    if has_deep_colors and "transparency" in image.info:
        raise ImageError("16-bit colors, one of them transparent; save it with 8 bits per channel")
    image.load()
    if has_deep_colors:
        _check_brightness(image)


def _check_brightness(image: Image.Image) -> None:
    """Raise `ImageError` for 16-bit colors below 4,096: Pillow keeps the upper 8 bits, which are nearly black."""
    colors = image.getextrema()[: _COLORS[image.mode]]  # (minimum, maximum) of each band
    if np.max(colors) < 16:
        raise ImageError("16-bit color channels with values below 4,096; save it with 8 bits per channel")


def _may_be_cut(image: Image.Image) -> bool:
    """Whether the last row is all zeros, as Pillow leaves rows that a file does not contain, or written early."""
    return (
        "interlace" in image.info
        or image.crop((0, image.height - 1, image.width, image.height)).getbbox(alpha_only=False) is None
    )


def has_text_line_ends(content: bytes) -> bool:
    """Whether every line feed follows a carriage return, as after a transfer as a text; by chance one in 256 does."""
    first = content.find(b"\n")
    if content[max(first - 1, 0) : first] != b"\r":  # the usual case, without reading the rest
        return False
    return (feeds := content.count(b"\n")) >= _MIN_LINE_FEEDS and content.count(b"\r\n") == feeds


def _lacks_rows(image: Image.Image, content: bytes) -> bool:
    """Whether the data of a JPEG end before its last pixel, although their end is marked.

    Missing pixels are gray, and more data before the mark would change them, but not a complete image.
    """
    last: Any = image.getpixel((image.width - 1, image.height - 1))
    if set(np.ravel(last)) not in ({128}, {127}):  # 127: CMYK, which Pillow inverts
        return False
    end = content.rfind(_END_OF_JPEG)
    with Image.open(io.BytesIO(content[:end] + b"Z" * 64 + content[end:]), formats=["JPEG"]) as longer:
        return longer.tobytes() != image.tobytes()


def _convert_to_rgb(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # convert("RGB") would clip nearly every 16-bit value to white
        gray = _scale_to_8_bits(values := np.asarray(image), _stated_bits(tags))
        scaled = Image.fromarray(255 - gray if tags.get(_PHOTOMETRIC) == 0 else gray)
        if "transparency" not in image.info:
            return scaled.convert("RGB")
        scaled.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
        return _without_transparency(scaled)
    if tags and _EXTRA_SAMPLES not in tags:
        return image.convert("RGB")  # only this tag makes a further band the opacity; infrared, for instance, is none
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        return _without_transparency(image)
    return image.convert("RGB")


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


def _stated_bits(tags: Mapping[int, Any]) -> int:
    """Bits of a gray value by the tags of a TIFF; 0 where they state no more than the size of its memory."""
    for tag in (_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE):
        number = int(np.ravel(tags.get(tag) or 0)[0])
        bits = number.bit_length() if tag == _MAX_SAMPLE_VALUE else number
        if 8 < bits < 16:
            return bits
    return 0


def _scale_to_8_bits(values: NDArray[Any], stated_bits: int) -> NDArray[np.uint8]:
    """Scale gray values to 0 to 255 by their stated bits, else by the smallest usual bit depth that holds them all.

    Floats below 2 are shares of white. Raises `ImageError` for values that are negative, not finite or of more than 32
    bits, as those that mark missing data, and for floats and 32-bit integers that would be nearly black.
    """
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite(values).all():
        raise ImageError("gray values that are not finite; save it with values from 0 to 1 or 0 to 255")
    if low < -0.01 * high or high >= 2 ** _BIT_DEPTHS[-1]:
        raise ImageError(f"gray values from {low:g} to {high:g}; save it with values from 0 to 1 or 0 to 255")
    if values.dtype.kind == "f" and high < 2:
        return np.asarray((values.clip(0, 1) * 255).round(), np.uint8)
    if values.dtype.kind == "u" and not stated_bits and _made_from_8_bits(values):
        return np.asarray(values >> 8, np.uint8)
    bits = next(bits for bits in (stated_bits or 8, *_BIT_DEPTHS) if high < 2**bits)
    if values.dtype.kind != "u" and not stated_bits and 0 < high / 2 ** (bits - 8) < 16:
        raise ImageError(f"gray values up to {high:g}, nearly black; save it with values from 0 to 1 or 0 to 255")
    return np.asarray((values / 2 ** (bits - 8)).clip(0, 255), np.uint8)


def _made_from_8_bits(values: NDArray[Any]) -> bool:
    """Whether 16-bit values are 8-bit ones times 257 or 256, as programs write them: these fill 16 bits."""
    lower = values & 255
    return not lower.any() or bool((lower == values >> 8).all())


def _without_transparency(image: Image.Image) -> Image.Image:
    """Convert to RGB over `BACKGROUND`, in strips, since each of the three steps copies its input.

    Raises `ImageError` if nothing is visible.
    """
    result, visible = Image.new("RGB", image.size), False
    height = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        rows = (0, top, image.width, min(top + height, image.height))
        foreground = image.crop(rows).convert("RGBA")
        visible = visible or foreground.getchannel("A").getextrema() != (0, 0)
        background = Image.new("RGBA", foreground.size, (*BACKGROUND, 255))
        result.paste(Image.alpha_composite(background, foreground).convert("RGB"), rows)
    if not visible:
        raise ImageError("every pixel is transparent; save it without transparency")
    return result


def to_rgb_image(value: bytes | NDArray[Any] | Image.Image) -> Image.Image:
    """Convert an image in memory to upright RGB: a file's bytes, a uint8 array (H, W) or (H, W, 3), or a Pillow image.

    Raises `ImageError`.
    """
    if isinstance(value, bytes):
        return decode_image(value)
    if isinstance(value, Image.Image):
        with _image_errors():
            _check_size(value)
            _load(value)
            try:
                upright = ImageOps.exif_transpose(value)
            except Exception:  # unusual metadata
                upright = value.copy()
                _make_upright(upright)
            return _convert_to_rgb(upright, _tiff_tags(value))
    if not isinstance(value, np.ndarray):
        raise ImageError(f"an image must be a path, bytes, a Pillow image or an array, not {type(value).__name__}")
    if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3)):
        raise ImageError(f"an array must be uint8 (H, W) or (H, W, 3), got {value.dtype} {value.shape}")
    return to_rgb_image(Image.fromarray(np.ascontiguousarray(value)))


def crop_box(preprocessing: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the part of a `width` x `height` image that is scaled to S x S.

    It is the whole image for `fit: stretch`. For `fit: crop` it is the center square whose side is S / `shorter_side`
    of the image's shorter side, clipped to the image where S exceeds `shorter_side`.
    """
    if preprocessing.shorter_side is None:
        return 0, 0, width, height
    side = min(width, height) * preprocessing.size / preprocessing.shorter_side
    left, top = max((width - side) / 2, 0), max((height - side) / 2, 0)
    return left, top, min((width + side) / 2, width), min((height + side) / 2, height)


def visible_region(preprocessing: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what the encoder sees, as shares (0 to 1) of the upright image's sides."""
    left, top, right, bottom = crop_box(preprocessing, width, height)
    return left / width, top / height, right / width, bottom / height


def preprocess_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Crop and resize an RGB image to the encoder's input, uint8 (S, S, 3). The encoder normalizes it on its device.

    Cropping and resizing are one resampling step, in two passes: first horizontally, then vertically. Each pass
    rounds, and from version 13 on Pillow itself scales tall images vertically first. With one call per pass, all
    versions return the same pixels. Raises `ImageError` for an image that is far taller than wide.
    """
    size = preprocessing.size
    left, top, right, bottom = box = crop_box(preprocessing, *image.size)
    if preprocessing.interpolation == "nearest":
        return np.asarray(image.resize((size, size), Image.Resampling.NEAREST, box))
    resampling, support = _FILTERS[preprocessing.interpolation]
    radius = support * max((bottom - top) / size, 1) + 1
    first, last = max(math.floor(top - radius), 0), min(math.ceil(bottom + radius), image.height)
    # Rows that the filter cannot reach are cut off. Pillow rounds positions, so this also decides last bits.
    rows = image if last - first == image.height else image.crop((0, first, image.width, last))
    if size * rows.height > MAX_PIXELS:  # the first pass would need more memory than the image
        raise ImageError(f"{image.width} x {image.height} pixels: too tall for its width")
    narrow = rows.resize((size, rows.height), resampling, box=(left, 0, right, rows.height))
    return np.asarray(narrow.resize((size, size), resampling, box=(0, top - first, size, bottom - first)))


def decode_pixels(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the encoder's input (S, S, 3) from an image file's bytes. Raises `ImageError`."""
    return preprocess_image(decode_image(content, fill_truncated=preprocessing.fill_truncated), preprocessing)


def read_file(read: Callable[[], bytes], sha256: str) -> bytes:
    """Return an image file's bytes. `read` returns them or raises `OSError`.

    Raises `ImageError` when it raises, and when the bytes do not have this `sha256` (empty for any); `DiskError` when
    the machine or its disk fails.
    """
    try:
        content = read()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        if error.errno in _MACHINE_FAILS and not error.__cause__:  # with a cause: a damaged archive, or a server
            raise DiskError(
                f"{error.filename or 'an image'}: {reason}; the image may be intact: check the disk, the memory and "
                "`ulimit -n`, and run the command again"
            ) from error
        raise ImageError(reason) from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError("changed since its sha256 was recorded; run `dvc repro` again, or correct the manifest")
    return content


def thumbnail(content: bytes, side: int) -> tuple[str, int, int]:
    """Return a JPEG of at most `side` pixels per side as a `data:` URL, its width and its height.

    Raises `ImageError`.
    """
    image = decode_image(content, fill_truncated=True)
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


def describe_image(content: bytes, *, header_only: bool = False, fill_truncated: bool = False) -> ImageDescription:
    """Read an image file's size and format. Raises `ImageError` for a file that cannot be decoded.

    With `header_only` the pixels are not decoded, so that damage after the header goes unnoticed. See `decode_image`
    for `fill_truncated`.
    """
    if not header_only:
        decode_image(content, fill_truncated=fill_truncated)
    with _open(content) as image:
        return ImageDescription(image.width, image.height, image.mode, image.format or "")
