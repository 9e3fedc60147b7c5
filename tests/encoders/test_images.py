"""Any image file is decoded to upright RGB, or refused with a reason."""

import contextlib
import errno
import io
import struct
import sys
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import encoded, noise, png_file
from PIL import Image, PngImagePlugin
from support import run_program

from pipeline.encoders import images
from pipeline.encoders.images import (
    ImageError,
    decode_image,
    describe_image,
    preprocess_image,
    read_file,
    to_rgb_image,
    visible_region,
)
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import DiskError, ParamsError


def preprocessing(size, shorter_side=None, interpolation="bilinear"):
    return Preprocessing(size, shorter_side, interpolation, (0.5,) * 3, (0.2,) * 3, (255,) * 3)


@pytest.mark.parametrize(
    ("values", "tags", "expected"),
    [
        (np.uint16([[0, 32768, 65535]]), {}, [0, 128, 255]),
        (np.uint16([[0, 4095]]), {}, [0, 255]),  # 12 bits
        (np.uint16([[0, 900]]), {281: 4095}, [0, 56]),  # 12 bits, as MaxSampleValue states
        (np.uint16([[0, 65535]]), {262: 0}, [255, 0]),  # zero is white
        (np.int32([[0, 65535]]), {}, [0, 255]),
        (np.float32([[0, 0.5]]), {}, [0, 128]),
        (np.float32([[0, 200]]), {}, [0, 200]),
        (np.float32([[0, 65535]]), {}, [0, 255]),
        (np.float32([[0, 0.5, 1.02]]), {}, [0, 128, 255]),
        (np.float32([[0, 1e5]]), {}, [0, 97]),
        (np.int32([[0, 2**17 - 1]]), {}, [0, 127]),
        (np.int32([[0, 2**20 - 1]]), {}, [0, 255]),
        (np.int32([[0, 2**24 - 1]]), {}, [0, 255]),
    ],
)
def test_gray_values_are_scaled_by_the_bits_or_the_tags_that_are_there(values, tags, expected):
    pixels = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF", tiffinfo=tags)))
    assert pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [[[-1, 1]], [[0, np.nan]], [[-5, -1]], [[0, 2.0**32]], [[0.5, 1e20]]])
def test_gray_values_of_unknown_range_are_refused_and_not_blackened(values):
    with pytest.raises(ImageError, match=r"gray values .*; save it with values from 0 to 1 or 0 to 255"):
        decode_image(encoded(Image.fromarray(np.float32(values)), "TIFF"))


@pytest.mark.parametrize("values", [np.float32([[0, 4]]), np.int32([[0, 9]])])
def test_gray_values_that_would_be_nearly_black_are_refused(values):
    with pytest.raises(ImageError, match=r"gray values up to [49], nearly black; save it"):
        decode_image(encoded(Image.fromarray(values), "TIFF"))


def deep_tiff(value, *, compressed=False, inks=False, planar=False):
    """A TIFF of one pixel with three 16-bit colors, or four inks."""
    short, long, bands = 3, 4, 3 + inks
    pixel = struct.pack(f"<{bands}H", *[value] * bands)
    pixel = zlib.compress(pixel) if compressed else pixel
    tags = [(256, short, 1, 1), (257, short, 1, 1), (258, short, bands, 0), (259, short, 1, 8 if compressed else 1)]
    tags += [(262, short, 1, 5 if inks else 2), (273, long, 1, 2 * bands), (277, short, 1, bands), (278, short, 1, 1)]
    tags += [(279, long, 1, len(pixel)), (284, short, 1, 1 + planar)]
    data = 8 + 2 + len(tags) * 12 + 4
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, value + data if tag in {258, 273} else value)
        for tag, kind, count, value in tags
    )
    start = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return start + entries + bytes(4) + struct.pack(f"<{bands}H", *[16] * bands) + pixel


def deep_png(*colors, transparent=()):
    """A PNG of one row with 16 bits per color: gray, gray and opacity, RGB, or RGB and opacity."""
    row, color = b"\0" + np.array(colors, ">u2").tobytes(), {1: 0, 2: 4, 3: 2, 4: 6}[len(colors[0])]
    transparent = np.array(transparent, ">u2").tobytes()
    return png_file(len(colors), 1, depth=16, color=color, transparent=transparent, pixels=row)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (deep_tiff(65535), [255] * 3),
        (deep_tiff(65535, compressed=True), [255] * 3),
        (deep_tiff(0, inks=True), [255] * 3),  # no ink
        (deep_png((65535, 32768, 0)), [255, 128, 0]),
        (deep_png((16 << 8, 0, 0, 65535)), [16, 0, 0]),
        (deep_png((65535, 65535)), [255] * 3),
    ],
)
def test_sixteen_bit_colors_become_eight_bit_ones(content, expected):
    assert np.asarray(decode_image(content))[0, 0].tolist() == expected


@pytest.mark.parametrize(
    "content",
    [
        deep_tiff(4095),
        deep_tiff(4095, compressed=True),
        deep_tiff(0),
        deep_png((4095, 2048, 0)),
        deep_png((4095, 2048, 0, 65535)),
        deep_png((4095, 65535)),
        deep_png((255, 128, 0)),
    ],
)
def test_colors_that_use_at_most_twelve_of_sixteen_bits_are_refused_and_not_blackened(content):
    with pytest.raises(ImageError, match=r"16-bit color channels with values below 4,096; save it with 8 bits"):
        decode_image(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (deep_tiff(65535, planar=True), "16-bit colors in separate planes; convert it with `tiffcp -p contig OLD NEW`"),
        (deep_png((65535, 0, 0), transparent=(1, 2, 3)), "16-bit colors, one of them transparent; save it with 8 bits"),
        (deep_png((7,), (7,), transparent=(7,)), "every pixel is transparent; save it without transparency"),
    ],
)
def test_deep_colors_that_pillow_reads_wrongly_are_refused(content, words):
    for value in (content, Image.open(io.BytesIO(content))):
        with pytest.raises(ImageError, match=words):
            to_rgb_image(value)


def test_the_transparent_value_of_a_sixteen_bit_gray_png_shows_the_background():
    content = deep_png((0,), (40_000,), transparent=(0,))
    assert np.asarray(decode_image(content))[0, :, 0].tolist() == [255, 156]


@pytest.mark.parametrize("scale", [256, 257])
def test_dark_gray_values_made_from_eight_bits_stay_dark(scale):
    content = encoded(Image.fromarray(np.uint16([[5 * scale]])))
    assert np.asarray(decode_image(content))[0, 0].tolist() == [5] * 3


def test_heic_is_read_with_its_extra_and_refused_by_name_without_it(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 32), (200, 0, 0))).save(buffer)
    image = decode_image(buffer.getvalue())
    assert image.size == (64, 32)
    assert abs(image.getpixel((9, 9))[0] - 200) < 9
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(ImageError, match=r"a HEIC image: run `pip install -e '\.\[heif\]'`"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_damaged_or_on_request_gray_where_it_ends(progressive):
    content = encoded(Image.new("RGB", (64, 64), (250, 250, 250)), "JPEG", progressive=progressive)
    assert decode_image(content, fill_truncated=True) == decode_image(content)
    end = content.index(b"\xff\xda") + 20
    with pytest.raises(ImageError, match="truncated"):
        decode_image(content[:end])
    assert decode_image(content[:end], fill_truncated=True).getpixel((63, 63)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_pixels_show_the_background(mode):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((3, 3), (10, 20, 30, 255))
    options = {}
    if mode == "P":
        image, options = Image.new("P", (4, 4), 0), {"transparency": 0}
        image.putpalette([10, 20, 30] * 256)
        image.putpixel((3, 3), 1)
    pixels = np.asarray(decode_image(encoded(image, **options)))
    assert pixels[3, 3].tolist() == [10, 20, 30]
    assert (pixels[:3] == images.BACKGROUND).all()


@pytest.mark.slow
def test_a_large_transparent_image_is_not_copied_several_times(tmp_path):
    pixels = 5000 * 5000
    Image.new("RGBA", (5000, 5000), (1, 2, 3, 4)).save(tmp_path / "large.png")
    grown = run_program(
        *(sys.executable, "-c"),
        "import pathlib, resource; from pipeline.encoders.images import decode_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "content = pathlib.Path('large.png').read_bytes(); before = peak(); decode_image(content)\n"
        "print(peak() - before)",
        cwd=tmp_path,
    )
    assert int(grown) * 1024 < 3.5 * 4 * pixels  # the image, the result and a strip; Pillow has 4 bytes per pixel


def test_an_image_without_a_visible_pixel_is_refused():
    with pytest.raises(ImageError, match="every pixel is transparent; save it without transparency"):
        decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))


@pytest.mark.parametrize("stated", [True, False])
def test_a_fourth_band_of_a_tiff_is_its_opacity_only_if_the_file_says_so(stated):
    content = encoded(Image.new("RGBA", (4, 4), (200, 100, 50, 128)), "TIFF")
    entry = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples
    assert content.count(entry) == 1
    if not stated:
        content = content.replace(entry, struct.pack("<HHI", 33000, 3, 1))  # a private tag in its place
    pixel = decode_image(content).getpixel((0, 0))
    assert (pixel == (200, 100, 50)) != stated


def test_a_preview_in_a_camera_raw_file_is_refused():
    content = encoded(noise("L", (8, 8)), "TIFF", tiffinfo={254: 1})
    with pytest.raises(
        ImageError, match="a preview of reduced resolution, as in a camera raw file; convert it to JPEG"
    ):
        decode_image(content)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (8, 4), (0, 0, 0))
    upright.putpixel((0, 0), (255, 255, 255))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that store it as a camera would
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (np.asarray(decode_image(encoded(stored, exif=exif))) == np.asarray(upright)).all()


def exif_block(*fields):
    """An EXIF block with fields (tag, type, count, value); the value fits into four bytes."""
    body = b"".join(struct.pack(">HHI4s", *field) for field in fields)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(fields)) + body + bytes(4)


@pytest.mark.parametrize("unusual", [(0x011A, 2, 4, b"72\0\0"), (0x0100, 2, 4, b"wid\0"), (0x02BC, 3, 2, b"\1\2\3\4")])
def test_metadata_of_an_unusual_type_do_not_stop_the_rotation(unusual):
    exif = exif_block((0x0112, 3, 1, b"\0\6\0\0"), unusual)
    image = noise(size=(8, 4))
    for given in (encoded(image, "JPEG", exif=exif), Image.open(io.BytesIO(encoded(image, "JPEG", exif=exif)))):
        upright = to_rgb_image(given)
        expected = decode_image(encoded(image, "JPEG")).transpose(Image.Transpose.ROTATE_270)
        assert np.array_equal(upright, expected)


def test_an_orientation_that_was_changed_in_memory_counts():
    image = Image.open(io.BytesIO(encoded(noise(size=(8, 4)))))
    image.getexif()[0x0112] = 6
    assert to_rgb_image(image).size == (4, 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_metadata_that_cannot_be_read_are_ignored(form):
    image = noise(size=(8, 4))
    assert np.array_equal(decode_image(encoded(image, form, exif=b"garbage ")), decode_image(encoded(image, form)))


def test_metadata_that_are_too_large_are_named():
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", " " * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError, match="its metadata are too large to be read; save it without them"):
        decode_image(encoded(noise(), pnginfo=text))


def test_a_flipped_byte_raises_no_other_error():
    content = encoded(noise(size=(24, 24)))
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with contextlib.suppress(ImageError):
            decode_image(bytes(damaged))


def test_a_description_from_the_header_does_not_decode_the_pixels():
    content = encoded(noise("L", (64, 64)))
    described = describe_image(content)
    assert (described.width, described.height, described.mode, described.format) == (64, 64, "L", "PNG")
    assert describe_image(content[:1000], header_only=True) == described
    with pytest.raises(ImageError, match="damaged"):
        describe_image(content[:1000])


@pytest.mark.parametrize("value", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8), Image.new("L", (5, 4))])
def test_images_in_memory_become_rgb(value):
    image = to_rgb_image(value)
    assert (image.mode, image.size) == ("RGB", (5, 4))


def closed_image():
    image = Image.new("L", (5, 4))
    image.close()
    return image


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((4, 5)), "must be"),
        (np.zeros((4, 5, 4), np.uint8), "must be"),
        (3, "must be"),
        (np.zeros((0, 5, 3), np.uint8), "without pixels"),
        (closed_image(), "closed image"),
        (Image.open(io.BytesIO(encoded(noise(), "JPEG")[:-500])), "damaged: .*truncated"),
        (Image.open(io.BytesIO(deep_tiff(4095))), "16-bit color channels with values below"),
    ],
)
def test_other_values_in_memory_are_refused(value, words):
    with pytest.raises(ImageError, match=words):
        to_rgb_image(value)


def test_crop_takes_the_center_and_stretch_the_whole_image():
    wide = Image.new("RGB", (300, 100), (0, 0, 0))
    wide.paste((255, 255, 255), (100, 0, 200, 100))
    cropped = preprocess_image(wide, preprocessing(10, 10, "nearest"))
    stretched = preprocess_image(wide, preprocessing(10, None, "nearest"))
    assert cropped.mean() == 255
    assert 50 < stretched.mean() < 120


def test_crop_equals_torchvisions_up_to_rounding():
    from torchvision.transforms import functional as reference

    noise = np.random.default_rng(0).integers(64, 192, (18, 25, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((500, 360), Image.Resampling.BICUBIC)
    theirs = np.asarray(reference.center_crop(reference.resize(image, 256), 224)).astype(int)
    ours = preprocess_image(image, preprocessing(224, 256)).astype(int)
    assert np.abs(ours - theirs).mean() < 2


def test_a_tall_image_is_scaled_horizontally_first_in_every_version_of_pillow():
    pixels = (np.random.default_rng(0).integers(0, 2, (400, 100, 3)) * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    horizontally_first = image.resize((64, 400), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    vertically_first = image.resize((100, 64), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    ours = preprocess_image(image, preprocessing(64, None, "bicubic"))
    assert np.array_equal(ours, np.asarray(horizontally_first))
    assert not np.array_equal(ours, np.asarray(vertically_first))


@pytest.mark.parametrize(
    ("size", "shorter_side", "width", "height", "region"),
    [
        (224, None, 400, 300, (0, 0, 1, 1)),
        (224, 256, 300, 300, (0.0625, 0.0625, 0.9375, 0.9375)),
        (224, 224, 400, 200, (0.25, 0, 0.75, 1)),
        (240, 224, 448, 224, (0.232142857, 0, 0.767857143, 1)),  # the crop is 240 x 240 of an image 224 high: clipped
        (240, 224, 224, 224, (0, 0, 1, 1)),
        (240, 224, 224, 448, (0, 0.232142857, 1, 0.767857143)),
    ],
)
def test_the_visible_region_is_the_crop_clipped_to_the_image(size, shorter_side, width, height, region):
    assert visible_region(preprocessing(size, shorter_side), width, height) == pytest.approx(region)


@pytest.mark.parametrize("shorter_side", [None, 20, 24, 32])
@pytest.mark.parametrize(("width", "height"), [(96, 48), (48, 96), (60, 60)])
def test_pixels_outside_the_visible_region_do_not_change_the_input(shorter_side, width, height):
    """With size 24, shorter side 20 is less than the size, 24 equal to it and 32 more."""
    how = preprocessing(24, shorter_side)
    left, top, right, bottom = visible_region(how, width, height)
    inside = np.zeros((height, width), bool)
    margin = 4  # the filter's radius
    inside[
        max(round(top * height) - margin, 0) : round(bottom * height) + margin,
        max(round(left * width) - margin, 0) : round(right * width) + margin,
    ] = True
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    outside_changed = np.where(inside[..., None], pixels, 255 - pixels)
    expected = preprocess_image(Image.fromarray(pixels), how)
    assert np.array_equal(preprocess_image(Image.fromarray(outside_changed), how), expected)
    corners = pixels.copy()
    corners[round(top * height), round(left * width)] ^= 255
    corners[round(bottom * height) - 1, round(right * width) - 1] ^= 255
    changed = (preprocess_image(Image.fromarray(corners), how) != expected).any(2)
    assert changed[0, 0]
    assert changed[-1, -1]


def test_an_image_far_taller_than_wide_is_refused_before_it_takes_the_memory():
    tall = Image.new("RGB", (1, 500_000))
    with pytest.raises(ImageError, match="1 x 500000 pixels: too tall for its width"):
        preprocess_image(tall, preprocessing(224, None))
    assert preprocess_image(tall, preprocessing(224, 256)).shape == (224, 224, 3)  # cropped first


def test_warnings_of_others_are_shown_again_after_decoding_in_threads():
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode_image, [encoded(noise())] * 64))
    assert warnings.filters == before


def test_lack_of_memory_is_not_the_fault_of_the_image(monkeypatch):
    def exhausted(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", exhausted)
    with pytest.raises(ParamsError, match="not enough memory to decode an image"):
        decode_image(encoded(noise()))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE])
def test_failures_of_the_machine_are_not_the_fault_of_the_image(number):
    def read():
        raise OSError(number, "it fails", "a.jpg")

    with pytest.raises(DiskError, match=r"a\.jpg: cannot be read: it fails; the image may be intact: check the disk"):
        read_file(read, "")


def test_files_that_cannot_be_read_are_the_fault_of_the_image():
    def missing():
        raise FileNotFoundError(errno.ENOENT, "No such file", "a.jpg")

    def damaged_archive():
        raise OSError(errno.EIO, "in a.zip: bad CRC", "a.jpg") from zipfile.BadZipFile("bad CRC")

    for read in (missing, damaged_archive):
        with pytest.raises(ImageError, match=r"cannot be read: (No such file|in a\.zip: bad CRC)"):
            read_file(read, "")
