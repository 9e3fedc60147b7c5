"""One picture of where the decoder looked: the photo once, then once per word, bright where the weight is.

Light instead of colours, so that it reads in print, and for people who do not tell colours apart.
"""

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DataError
from pipeline.inference.base_captioner import Caption, open_image, part_seen

if TYPE_CHECKING:
    from pipeline.inference.base_captioner import Picture

_SIDE, _GAP, _LABEL, _COLUMNS = 224, 12, 30, 6
_BACKGROUND, _TEXT = (255, 255, 255), (20, 20, 20)
_DARKEST = 0.2
"""The light that is left where the decoder did not look."""


def draw_attention(picture: "Picture", caption: Caption, spec: EncoderSpec) -> bytes:
    """A PNG: the picture with the whole caption above, then a tile for each word. Raises `DataError` for a bad picture
    and for a caption without attention."""
    if caption.attention is None:
        raise DataError("this decoder does not look at regions, so there is no attention to draw")
    tile = open_image(picture)
    seen = part_seen(spec.transform, *tile.size)
    tile = ImageOps.contain(tile, (_SIDE, _SIDE), Image.Resampling.LANCZOS)
    light = [brightness_map(np.array(weights), spec.grid, tile.size, seen) for weights in caption.attention]
    pixels = np.asarray(tile, dtype=np.float32)
    tiles = [("", tile)]
    for word, brightness in zip(caption.words, light, strict=True):
        lit = (pixels * brightness[..., None]).round().astype(np.uint8)
        tiles.append((word, Image.fromarray(lit)))
    return _sheet(caption.text, tiles)


def brightness_map(
    weights: NDArray[np.float64], grid: int, size: tuple[int, int], seen: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """How bright each pixel (height, width) of a picture of `size` is to be: 1 where the greatest of `weights` is."""
    width, height = size
    left, top, right, bottom = (round(share * side) for share, side in zip(seen, (*size, *size), strict=True))
    heat = (weights / max(weights.max(), 1e-12)).reshape(grid, grid).astype(np.float32)
    smooth = Image.fromarray(heat).resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BICUBIC)
    light = np.zeros((height, width), np.float32)
    light[top : top + smooth.height, left : left + smooth.width] = np.asarray(smooth)[: height - top, : width - left]
    return (_DARKEST + (1 - _DARKEST) * light.clip(0, 1)).astype(np.float32)


def _sheet(title: str, tiles: list[tuple[str, Image.Image]]) -> bytes:
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0][1].size
    sheet_width = _GAP + columns * (width + _GAP)
    heading = _lines(title, ImageFont.load_default(20), sheet_width - 2 * _GAP)
    top = 2 * _GAP + 26 * len(heading)
    sheet = Image.new("RGB", (sheet_width, top + rows * (height + _LABEL + _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        draw.text((_GAP, _GAP + 26 * number), line, _TEXT, font=ImageFont.load_default(20))
    for number, (word, tile) in enumerate(tiles):
        x = _GAP + (number % columns) * (width + _GAP)
        y = top + (number // columns) * (height + _LABEL + _GAP)
        sheet.paste(tile, (x, y))
        draw.text((x + 2, y + height + 5), word, _TEXT, font=ImageFont.load_default(17))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _lines(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
