"""Any picture becomes upright RGB, or is refused with a reason."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.encoders import images
from pipeline.encoders.images import ImageError, decode


def saved(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def test_sixteen_bits_are_scaled_and_not_clipped_to_white():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = np.asarray(decode(saved(Image.fromarray(ramp))))
    assert abs(pixels.mean() - 127) < 2


def test_transparent_pixels_show_the_stated_background():
    pixels = np.asarray(decode(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))))
    assert (pixels == images.BACKGROUND).all()


def test_a_palette_with_transparency_does_too():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] * 256)
    assert (np.asarray(decode(saved(picture, transparency=0))) == images.BACKGROUND).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr", "RGB", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    form = "PNG" if mode == "1" else "JPEG"
    assert decode(saved(Image.new(mode, (5, 4)), form)).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_whatever_the_camera_said(orientation):
    upright = Image.new("RGB", (8, 4), (0, 0, 0))
    upright.putpixel((0, 0), (255, 255, 255))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that store it as the camera would
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (np.asarray(decode(saved(stored, exif=exif))) == np.asarray(upright)).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "BMP"])
def test_the_usual_formats_are_read(form):
    assert decode(saved(Image.new("RGB", (5, 4), (200, 0, 0)), form)).size == (5, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "not a picture"),
        (b"%PDF-1.4\n", "not a picture"),
        (saved(Image.new("RGB", (64, 64)), "JPEG")[:200], "damaged|not a picture"),
        (saved(Image.effect_noise((64, 64), 50))[:1000], "damaged"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(content, reason):
    with pytest.raises(ImageError, match=reason):
        decode(content)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="20 x 10 pixels, more than the limit"):
        decode(saved(Image.new("RGB", (20, 10))))


def test_no_flipped_byte_escapes_as_another_error():
    content = saved(Image.effect_noise((24, 24), 60).convert("RGB"))
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with contextlib.suppress(ImageError):
            decode(bytes(damaged))


def test_crop_takes_the_middle_and_squash_the_whole():
    wide = Image.new("RGB", (300, 100), (0, 0, 0))
    wide.paste((255, 255, 255), (100, 0, 200, 100))
    crop = images.resize(wide, size=10, shorter_side=10, interpolation="nearest")
    squash = images.resize(wide, size=10, shorter_side=None, interpolation="nearest")
    assert crop.mean() == 255
    assert 50 < squash.mean() < 120


def test_crop_agrees_with_torchvision_but_for_rounding():
    from torchvision.transforms import functional as reference

    noise = np.random.default_rng(0).integers(64, 192, (18, 25, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((500, 360), Image.Resampling.BICUBIC)
    theirs = np.asarray(reference.center_crop(reference.resize(picture, 256), 224)).astype(int)
    ours = images.resize(picture, size=224, shorter_side=256, interpolation="bilinear").astype(int)
    assert np.abs(ours - theirs).mean() < 2
