"""Malformed files in a dataset's image folder: each is decoded or refused, and none ends the process."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from image_files import encoded, noise, png_file
from PIL import Image
from support import run_command, set_param

from pipeline.encoders.images import ImageError, decode_image

JPEG, PNG = encoded(noise(), "JPEG"), encoded(noise())
HALF = len(PNG) // 2
DECODED = {
    "jpeg": (JPEG, (40, 30)),
    "progressive jpeg": (encoded(noise(), "JPEG", progressive=True), (40, 30)),
    "cmyk jpeg": (encoded(noise("CMYK"), "JPEG"), (40, 30)),
    "gray jpeg": (encoded(noise("L"), "JPEG"), (40, 30)),
    "sixteen-bit png": (encoded(Image.fromarray(np.full((5, 4), 40_000, np.uint16))), (4, 5)),
    "palette png": (encoded(noise("P")), (40, 30)),
    "png with alpha": (encoded(noise("RGBA")), (40, 30)),
    "png of one bit": (encoded(noise("1")), (40, 30)),
    "animated gif": (encoded(noise("P"), "GIF", save_all=True, append_images=[noise("P")]), (40, 30)),
    "webp": (encoded(noise(), "WEBP"), (40, 30)),
    "bmp": (encoded(noise(), "BMP"), (40, 30)),
    "avif": (encoded(noise(), "AVIF"), (40, 30)),
    "tiff of two pages": (encoded(noise(), "TIFF", save_all=True, append_images=[noise()]), (40, 30)),
    "lzw tiff": (encoded(noise(), "TIFF", compression="tiff_lzw"), (40, 30)),
    "one pixel": (encoded(noise(size=(1, 1))), (1, 1)),
}
REFUSED = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "not an image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "damaged"),
    "truncated png": (PNG[:HALF], "damaged"),
    "half a header": (PNG[:20], ""),
    "png with a flipped byte": (PNG[:HALF] + bytes([PNG[HALF] ^ 0xFF]) + PNG[HALF + 1 :], "damaged"),
    "large png": (png_file(12_000, 9_000, pixels=b""), "12000 x 9000 pixels, more than the limit of 100000000"),
    "bomb": (png_file(60_000, 60_000, pixels=b""), "more than the limit of 100000000 pixels"),
    "truncated avif": (DECODED["avif"][0][:200], "damaged, or of an unsupported kind; convert it to JPEG or PNG"),
    "truncated lzw tiff": (DECODED["lzw tiff"][0][:-400], "damaged, or of an unsupported kind"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
    "pdf": (b"%PDF-1.4\n%%EOF\n", "not an image"),
    "html of a login page": (b"<!DOCTYPE html><title>403</title>", "a web page, not the file itself"),
    "a link that git wrote as text": (b"../shared/a.jpg", "a path in the place of a symbolic link"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
}


@pytest.mark.parametrize("case", DECODED)
def test_unusual_files_are_decoded(case):
    content, size = DECODED[case]
    image = decode_image(content)
    assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_files_are_refused_with_the_reason(case):
    content, reason = REFUSED[case]
    with pytest.raises(ImageError) as error:
        decode_image(content)
    assert str(error.value).startswith(reason)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_folders_pipes_and_broken_links_are_listed_and_no_other_image_changes(project):
    from pipeline import paths
    from pipeline.features.feature_file import FeatureFile

    for stage in ("prepare", "extract"):
        assert run_command(stage)[0] == 0
    before = FeatureFile.open(project / paths.FEATURES)
    expected = {image: before.load([image]).tobytes() for image in before.images}

    images = Path(project / "data/tiny/images")
    names = ["001.png", "002.png", "003.png", "005.png"]
    for name in names:
        (images / name).unlink()
    (images / names[0]).mkdir()
    os.mkfifo(images / names[1])
    (images / names[2]).symlink_to(names[2])
    (images / names[3]).symlink_to("nowhere.png")
    set_param(project, "data.max_skipped", 0.5)
    for stage in ("prepare", "extract"):
        code, _, err = run_command(stage)
        assert code == 0, err
    assert "14 images, 14 from the store, 0 encoded" in err
    skipped = (project / paths.SKIPPED).read_text()
    assert all(f",{name}," in skipped for name in names)
    after = FeatureFile.open(project / paths.FEATURES)
    assert set(after.images) == set(expected) - set(names)
    assert all(after.load([image]).tobytes() == expected[image] for image in after.images)


def test_a_png_with_one_row_of_many_is_refused():
    row = b"\0" + bytes([200, 30, 30]) * 9_999
    with pytest.raises(ImageError, match=r"damaged: truncated: 299,920,004 bytes of its pixels are missing"):
        decode_image(png_file(9_999, 9_999, pixels=row))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_end_is_marked_too_early_is_refused(mode):
    content = encoded(noise(mode, size=(64, 640)), "JPEG")
    start = len(content) // 3
    for cut in (content[:start] + b"\xff\xd9", content[:start] + bytes(start) + b"\xff\xd9"):
        with pytest.raises(ImageError, match="damaged: truncated: its last rows are missing"):
            decode_image(cut)
        assert decode_image(cut, fill_truncated=True).size == (64, 640)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_image_that_was_copied_as_a_text_is_refused(kind):
    content = encoded(noise(size=(96, 96)), kind, quality=95)
    assert decode_image(content).size == (96, 96)
    with pytest.raises(ImageError, match="damaged: its line feeds were changed as those of a text"):
        decode_image(content.replace(b"\n", b"\r\n"))


def test_a_jpeg_that_is_gray_at_its_end_is_complete():
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[:32] = noise(size=(64, 32))
    assert decode_image(encoded(Image.fromarray(pixels), "JPEG")).size == (64, 64)


@pytest.mark.parametrize(("depth", "color"), [(1, 0), (8, 0), (16, 0), (8, 2), (4, 3), (8, 4), (8, 6)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_black_png_is_decoded_only_when_it_is_complete(depth, color, interlaced):
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]

    def rows(columns, count):
        return count * (1 + (columns * bits + 7) // 8) if columns else 0

    sizes = [(2, 2), (1, 2), (3, 1), (2, 3), (5, 2), (4, 5), (9, 4)]  # the seven passes of 9 x 9 pixels
    size = sum(rows(*one) for one in sizes) if interlaced else rows(9, 9)
    complete = png_file(9, 9, depth=depth, color=color, interlaced=interlaced, pixels=bytes(size))
    with pytest.raises(ImageError, match="transparent") if color in {4, 6} else contextlib.nullcontext():
        assert decode_image(complete).size == (9, 9)
    for missing in (1, rows(9, 1), size // 2, size):
        with pytest.raises(ImageError, match=r"damaged: .*truncated"):
            decode_image(png_file(9, 9, depth=depth, color=color, interlaced=interlaced, pixels=bytes(size - missing)))
