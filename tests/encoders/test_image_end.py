"""A second image behind the first one in a file is found; a photo of several parts is one image."""

import struct

import pytest
from image_files import encoded
from PIL import Image

from pipeline.encoders.image_end import holds_several_images

NOISE = Image.effect_noise((96, 64), 90).convert("RGB")
VIDEO = struct.pack(">I", 24) + b"ftypmp42" + bytes(40)


def with_thumbnail(jpeg):
    exif = b"Exif\0\0" + encoded(NOISE, "JPEG", quality=20)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


FIRST = {
    "jpeg": encoded(NOISE, "JPEG"),
    "progressive": encoded(NOISE, "JPEG", progressive=True),
    "thumbnail": with_thumbnail(encoded(NOISE, "JPEG")),
    "png": encoded(NOISE, "PNG"),
    "webp": encoded(NOISE, "WEBP"),
}


@pytest.mark.parametrize("second", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("first", FIRST)
def test_a_second_image_is_found(first, second):
    assert not holds_several_images(FIRST[first])
    assert holds_several_images(FIRST[first] + encoded(NOISE, second))


@pytest.mark.parametrize("behind", [VIDEO, b"\n", b"trailing text", bytes(64)])
@pytest.mark.parametrize("first", FIRST)
def test_other_content_behind_an_image_is_no_image(first, behind):
    assert not holds_several_images(FIRST[first] + behind)


def test_a_photo_of_several_parts_is_one_image():
    parts = b"<x:xmpmeta><rdf:RDF xmlns:Container='http://ns.google.com/photos/1.0/container/'/></x:xmpmeta>"
    assert holds_several_images(encoded(NOISE, "JPEG", xmp=b"<x:xmpmeta/>") + encoded(NOISE, "JPEG"))
    assert not holds_several_images(encoded(NOISE, "JPEG", xmp=parts) + encoded(NOISE, "JPEG"))
    several = encoded(NOISE, "MPO", save_all=True, append_images=[NOISE])
    assert several.count(encoded(NOISE, "JPEG")[-40:]) == 2
    assert not holds_several_images(several)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_image_that_is_cut_anywhere_has_no_second_one(form):
    whole = encoded(NOISE, form)
    assert not any(holds_several_images(whole[:size]) for size in range(0, len(whole), 7))
