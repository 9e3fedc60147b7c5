"""Attention maps: brightness follows the weights within the region that the encoder sees."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from pipeline.errors import DataError
from pipeline.inference.attention_overlay import brightness_map, draw_attention, find_font
from pipeline.inference.base_captioner import Caption

WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_an_image_is_brightest_where_the_weight_is_highest():
    weights = np.zeros(9)
    weights[5] = 1.0  # second row, third column
    brightness = brightness_map(weights, 3, (90, 60), WHOLE)
    assert brightness.shape == (60, 90)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert 20 <= row < 40
    assert column >= 60


def test_what_the_encoder_does_not_see_is_dark():
    brightness = brightness_map(np.full(9, 1 / 9), 3, (90, 60), (1 / 6, 0.0, 5 / 6, 1.0))
    assert brightness[:, :14].max() < 0.3 < 0.9 < brightness[:, 20:70].min()


def test_the_sheet_is_a_png_with_a_tile_per_token(captioner, images):
    ((caption,),) = captioner.captions(images[:1], attention=True)
    sheet = Image.open(io.BytesIO(draw_attention(images[0], caption, captioner.spec)))
    assert sheet.format == "PNG"
    fewer = replace(caption, tokens=caption.tokens[:1], attention=caption.attention[:1])
    assert Image.open(io.BytesIO(draw_attention(images[0], fewer, captioner.spec))).width < sheet.width


def test_a_caption_without_attention_weights_is_refused(captioner, images):
    ((caption,),) = captioner.captions(images[:1])
    with pytest.raises(DataError, match="no attention weights"):
        draw_attention(images[0], caption, captioner.spec)


def test_a_font_is_chosen_that_has_all_letters_of_the_caption(captioner, images):
    russian, unknown = "\u043a\u043e\u0442", "\u0378"  # a code that is no character
    assert find_font(Caption("a dog's ball", ("a", "dog's", "ball"), 0, 0)) == ""
    assert find_font(Caption(unknown, (unknown,), 0, 0)) is None
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        pytest.skip("needs the font DejaVu Sans")
    words = Caption(russian, (russian,), 0, 0)
    assert find_font(words) == "DejaVuSans.ttf"
    ((caption,),) = captioner.captions(images[:1], attention=True)
    one = replace(caption, attention=caption.attention[:1])
    sheets = [
        draw_attention(images[0], replace(one, text=text, tokens=(text,)), captioner.spec)
        for text in (russian, russian[::-1], 3 * unknown)
    ]
    assert len(set(sheets)) == 3
