"""Draw attention weights over an image: the image, then one tile per token, bright where the weight is high.

Brightness instead of colors, so that the sheet reads in print and without color vision.
"""

import io
import math
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.encoders.images import visible_region
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DataError
from pipeline.inference.base_captioner import Caption, open_image

if TYPE_CHECKING:
    from pipeline.inference.base_captioner import ImageInput

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SIDE, _GAP, _LABEL, _COLUMNS = 224, 12, 30, 6
_TITLE_FONT, _TITLE_LINE, _TITLE_WIDTH, _LABEL_FONT = 20, 26, 12, 17
_BACKGROUND, _TEXT = (255, 255, 255), (20, 20, 20)
_DARKEST = 0.2
"""Brightness where the attention weight is 0."""
_FONTS = ("", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")
"""Fonts for the captions, the preferred one first. The empty name is Pillow's own font, which has little but ASCII."""
_NO_LETTER = "\uffff"
"""A code that is no letter: every font draws it as it draws a missing one."""


def draw_attention(image: "ImageInput", caption: Caption, spec: EncoderSpec) -> bytes:
    """A PNG sheet: the caption, the image, and a tile for each token.

    Raises `DataError` for an image that cannot be used and for a caption without attention weights.
    """
    if caption.attention is None:
        raise DataError("the decoder of this model has no attention weights to draw; train decoder.kind: attention")
    upright = open_image(image, fill_truncated=spec.preprocessing.fill_truncated)
    region = visible_region(spec.preprocessing, *upright.size)
    tile = ImageOps.contain(upright, (_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(tile, dtype=np.float32)
    tiles = [("", tile)]
    for token, weights in zip(caption.tokens, caption.attention, strict=True):
        brightness = brightness_map(np.array(weights), spec.grid, tile.size, region)
        tiles.append((token, Image.fromarray((pixels * brightness[..., None]).round().astype(np.uint8))))
    return _sheet(caption.text, tiles, find_font(caption) or "")


def find_font(caption: Caption) -> str | None:
    """The first of the usual fonts that has all letters of a caption; empty for Pillow's own, None if none has."""
    letters = {*caption.text, *"".join(caption.tokens)}
    return next((name for name in _FONTS if _has_letters(name, letters)), None)


def _has_letters(name: str, letters: Iterable[str]) -> bool:
    font = _open_font(name, _LABEL_FONT)
    if font is None:
        return False
    missing = _drawn(font, _NO_LETTER)
    return all(letter.isspace() or _drawn(font, letter) != missing for letter in letters)


def _drawn(font: _Font, letter: str) -> tuple[tuple[int, int], bytes]:
    """The size and the pixels of a letter."""
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _open_font(name: str, size: int) -> _Font | None:
    """A font by its name, None if this computer lacks it."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


def brightness_map(
    weights: NDArray[np.float64], grid: int, size: tuple[int, int], region: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Brightness (height, width), 0 to 1, of an image of `size` (width, height): 1 at the highest of `weights`.

    The `grid` x `grid` weights cover `region`: left, top, right and bottom as shares of the image.
    """
    width, height = size
    left, top, right, bottom = (round(share * side) for share, side in zip(region, (*size, *size), strict=True))
    relative = (weights / max(weights.max(), 1e-12)).reshape(grid, grid).astype(np.float32)
    smooth = Image.fromarray(relative).resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BICUBIC)
    visible = np.zeros((height, width), np.float32)
    visible[top : top + smooth.height, left : left + smooth.width] = np.asarray(smooth)[: height - top, : width - left]
    return (_DARKEST + (1 - _DARKEST) * visible.clip(0, 1)).astype(np.float32)


def _sheet(title: str, tiles: list[tuple[str, Image.Image]], font: str) -> bytes:
    title_font, label_font = _open_font(font, _TITLE_FONT), _open_font(font, _LABEL_FONT)
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0][1].size
    sheet_width = _GAP + columns * (width + _GAP)
    letter_width = _TITLE_WIDTH
    if font and title_font:  # letters of other writing systems may be wider
        letter_width = max(letter_width, math.ceil(title_font.getlength(title) / max(len(title), 1)))
    heading = textwrap.wrap(title, sheet_width // letter_width) or [""]
    top = 2 * _GAP + _TITLE_LINE * len(heading)
    sheet = Image.new("RGB", (sheet_width, top + rows * (height + _LABEL + _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        draw.text((_GAP, _GAP + _TITLE_LINE * number), line, _TEXT, font=title_font)
    for number, (token, tile) in enumerate(tiles):
        x = _GAP + (number % columns) * (width + _GAP)
        y = top + (number // columns) * (height + _LABEL + _GAP)
        sheet.paste(tile, (x, y))
        draw.text((x + 2, y + height + 5), token, _TEXT, font=label_font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
