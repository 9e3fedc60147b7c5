"""JPEG decoding on a GPU, run on a CPU with Pillow in nvImageCodec's place: what it may decode, resizing, the order."""

import io
import sys
import time
import types
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import draw, image_file
from support import small_encoder

from pipeline.encoders import jpeg_headers
from pipeline.encoders.encoder import GPU_BATCH
from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.encoders.jpeg_headers import jpeg_size
from pipeline.encoders.nvimgcodec import check_nvimgcodec
from pipeline.encoders.spec import Preprocessing
from pipeline.errors import ParamsError
from pipeline.features import decode_pool, gpu_decoding, gpu_extraction
from pipeline.features.decode_pool import MAX_JPEG
from pipeline.features.gpu_decoding import ONE, Jpeg, JpegDecoder, resampling_matrix
from pipeline.features.gpu_extraction import encode_on_gpu
from pipeline.features.image_batches import ImageFile

CPU = torch.device("cpu")


class PillowAsNvimgcodec:
    """Decodes as nvImageCodec does, and refuses JPEGs with the comment `refused`."""

    def __init__(self):
        self.decoded = 0

    def decode(self, contents, cuda_stream):
        self.decoded += len(contents)
        return [None if b"refused" in bytes(content) else DecodedImage(content) for content in contents]


class DecodedImage:
    """What nvImageCodec returns."""

    def __init__(self, content):
        with Image.open(io.BytesIO(bytes(content))) as image:
            self.pixels = torch.from_numpy(np.array(image.convert("RGB")))

    def to_dlpack(self, cuda_stream):
        return torch.utils.dlpack.to_dlpack(self.pixels)


@pytest.fixture
def nvimgcodec(monkeypatch):
    decoder = PillowAsNvimgcodec()
    monkeypatch.setattr(gpu_decoding, "make_nvimgcodec_decoder", lambda device: decoder)
    monkeypatch.setattr("pipeline.encoders.encoder.check_nvimgcodec", lambda device: None)
    return decoder


def jpeg(width=60, height=40, mode="RGB", **options):
    random = np.random.default_rng(width * height)
    pixels = random.integers(0, 200, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def jpeg_file(folder):
    (folder / "one.jpg").write_bytes(jpeg())
    return image_file(folder / "one.jpg")


def with_segment(marker, data, before=0xDB):
    """A JPEG without JFIF header, with a further segment."""
    content = jpeg()
    content = content[:2] + content[20:]
    place = content.index(bytes([0xFF, before]))
    segment = bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data
    return content[:place] + segment + content[place:]


def exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def preprocessing(**changes):
    defaults = {
        "size": 64,
        "shorter_side": None,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "background": (255, 255, 255),
    }
    return Preprocessing(**defaults | changes)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(),
        jpeg(subsampling="4:4:4"),
        jpeg(subsampling="4:2:2"),
        jpeg(progressive=True),
        jpeg(exif=exif(1)),
        jpeg(comment=b"a comment"),
        jpeg(icc_profile=b"x" * 200),
    ],
    ids=["4:2:0", "4:4:4", "4:2:2", "progressive", "upright", "comment", "profile"],
)
def test_usual_jpegs_are_for_the_gpu(content):
    assert jpeg_size(content) == (40, 60)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff\xd9",
        jpeg()[:-2],
        jpeg()[:100] + b"\xff\xd9",
        jpeg(mode="L"),
        jpeg(mode="CMYK"),
        jpeg().replace(b"\x03\x01\x22\x00", b"\x03\x01\x41\x00"),
        jpeg(keep_rgb=True),
        jpeg(60, 3),
        jpeg(exif=exif(6)),
        jpeg(exif=exif(3)),
        with_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\4\0\0\0\1\0\0\0\6\0\0\0\0"),
        with_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'),
        with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0", before=0xDA),
        jpeg().replace(b"\r", b"").replace(b"\n", b"\r\n") * 8,
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=[
        *(
            "empty",
            "no frame",
            "truncated",
            "cut header",
            "gray",
            "CMYK",
            "4:1:1",
            "RGB",
            "tiny",
            "rotated",
            "upside down",
        ),
        *("rotated, LONG", "rotated, XMP", "RGB by a late segment", "text", "PNG"),
    ],
)
def test_other_files_are_for_pillow(content):
    assert jpeg_size(content) is None


def test_an_image_of_many_pixels_is_for_pillow(monkeypatch):
    monkeypatch.setattr(jpeg_headers, "MAX_PIXELS", 2 * 128 * 128)
    assert jpeg_size(jpeg(129, 40)) == (40, 129)
    assert jpeg_size(jpeg(257, 40)) is None


def test_headers_of_random_bytes_end():
    random, content = np.random.default_rng(0), jpeg()
    for _ in range(2000):
        damaged = bytearray(content)
        for place in random.integers(2, 700, 3):
            damaged[place] = random.integers(256)
        jpeg_size(bytes(damaged))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shorter_side", [None, 73, 50])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (64, 64), (40, 31), (1200, 90)])
def test_resizing_equals_pillow(nvimgcodec, interpolation, shorter_side, width, height):
    given = preprocessing(interpolation=interpolation, shorter_side=shorter_side)
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (resized,) = JpegDecoder(given, CPU).resize([torch.from_numpy(pixels)])
    resized = resized.numpy().astype(int)
    expected = preprocess_image(Image.fromarray(pixels), given).astype(int)
    difference = np.abs(resized - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05  # Pillow's weights have 22 bits, these 15


def test_an_image_is_resized_to_the_same_pixels_in_any_batch(nvimgcodec, monkeypatch):
    sizes = [(90, 120), (120, 90), (333, 500), (90, 120), (30, 700)]
    jpegs = [Jpeg(np.frombuffer(jpeg(*size), np.uint8), size[1], size[0]) for size in sizes]
    decoder = JpegDecoder(preprocessing(interpolation="bicubic"), CPU)
    together = decoder.decode(jpegs)
    monkeypatch.setattr(gpu_decoding, "MAX_PIXELS", 200_000)
    assert 1 < len(list(gpu_decoding._groups(jpegs))) < len(jpegs)
    for one, two, alone in zip(together, decoder.decode(jpegs), jpegs, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, decoder.decode([alone])[0])


def test_weights_are_whole_numbers_whose_sums_float32_holds():
    for interpolation, (length, start, stop) in product(("bilinear", "bicubic"), ((37, 3.5, 30.25), (4000, 0, 4000))):
        matrix = resampling_matrix(length, start, stop, 50, interpolation)
        assert matrix.shape == (50, length)
        assert np.array_equal(matrix, matrix.round())
        assert np.allclose(matrix.sum(1), ONE, rtol=2e-3)
        assert 255 * np.abs(matrix).sum(1).max() + ONE < 2**24


def test_pixels_and_order_are_those_of_extraction_with_pillow(nvimgcodec, tmp_path, monkeypatch):
    """JPEGs, other formats, one that is refused and one that may be cut, in more batches than there is memory for."""
    monkeypatch.setattr(gpu_extraction, "GPU_DECODED", GPU_BATCH)
    encoder, with_pillow = small_encoder(jpeg_decoder="nvimgcodec"), small_encoder()
    images = draw(tmp_path / "images", 2)
    for width in range(60, 71):
        (tmp_path / f"{width}.jpg").write_bytes(jpeg(width))
    (tmp_path / "refused.jpg").write_bytes(jpeg(comment=b"refused"))
    gray_corner = Image.new("RGB", (50, 50), (128, 128, 128))
    gray_corner.save(tmp_path / "gray.jpg", quality=95)
    Image.new("RGB", (50, 50), (200, 10, 10)).save(tmp_path / "red.png")
    images += map(image_file, sorted(tmp_path.glob("*.*")))
    many = [*images] * 30
    assert len(many) > 7 * GPU_BATCH
    found, expected = (list(encode_on_gpu(many, one, workers=3)) for one in (encoder, with_pillow))
    assert nvimgcodec.decoded > 2 * GPU_BATCH
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    assert all(not batch.unreadable for batch in found)
    for one, two in zip(found, expected, strict=True):
        assert np.allclose(one.features, two.features, atol=2e-3)


def test_files_are_read_into_memory_that_was_decoded(nvimgcodec, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_extraction, "GPU_DECODED", GPU_BATCH)
    encoder, image = small_encoder(jpeg_decoder="nvimgcodec"), jpeg_file(tmp_path)
    many = [ImageFile(str(number), image.path, image.sha256) for number in range(20 * GPU_BATCH)]
    decoded, too_early = 0, []
    read, decode = decode_pool.DecodePool.decode, JpegDecoder.decode

    def checked(pool, images, slots, **how):
        first = int(images[0].image)
        if first - len(pool.slots) >= decoded:
            too_early.append(first)
        return read(pool, images, slots, **how)

    def slow(decoder, jpegs):
        nonlocal decoded
        time.sleep(0.02)
        found = decode(decoder, jpegs)
        decoded += len(jpegs)
        return found

    monkeypatch.setattr(decode_pool.DecodePool, "decode", checked)
    monkeypatch.setattr(JpegDecoder, "decode", slow)
    monkeypatch.setattr(encoder, "forward", lambda pixels: torch.zeros(GPU_BATCH, encoder.regions, encoder.channels))
    assert sum(len(batch.keys) for batch in encode_on_gpu(many, encoder, workers=2)) == len(many)
    assert decoded == len(many)
    assert not too_early


@pytest.mark.parametrize("failing", [False, True])
def test_an_interrupted_run_leaves_no_process(nvimgcodec, tmp_path, monkeypatch, failing):
    monkeypatch.setattr(gpu_extraction, "GPU_DECODED", GPU_BATCH)
    encoder, image = small_encoder(jpeg_decoder="nvimgcodec"), jpeg_file(tmp_path)
    workers, start = [], decode_pool.DecodePool._start
    monkeypatch.setattr(decode_pool.DecodePool, "_start", lambda pool: workers.append(start(pool)) or workers[-1])
    batches = encode_on_gpu([image] * 20 * GPU_BATCH, encoder, workers=2)
    next(batches)
    if failing:
        monkeypatch.setattr(JpegDecoder, "decode", lambda decoder, jpegs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(batches)
    else:
        batches.close()
    assert workers
    assert all(worker._process.poll() is not None for worker in workers)


def test_a_large_jpeg_is_decoded_by_pillow(nvimgcodec, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    assert (tmp_path / "large.jpg").stat().st_size > MAX_JPEG
    image = image_file(tmp_path / "large.jpg")
    (found,), (expected,) = (
        encode_on_gpu([image], small_encoder(jpeg_decoder=name), workers=1) for name in ("nvimgcodec", "pillow")
    )
    assert nvimgcodec.decoded == 0
    assert np.array_equal(found.features, expected.features)


def test_unreadable_images_are_listed(nvimgcodec, tmp_path):
    encoder = small_encoder(jpeg_decoder="nvimgcodec")
    images = draw(tmp_path / "images", 5)
    content = jpeg()
    files = {"cut.jpg": content[: len(content) // 2], "cut-marked.jpg": jpeg(500, 400)[:5000] + b"\xff\xd9", "x": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        images.append(image_file(tmp_path / name))
    images[1].path.unlink()
    images[2].path.write_bytes(jpeg())
    (batch,) = encode_on_gpu(images, encoder, workers=2)
    assert batch.keys == [images[place].sha256 for place in (0, 3, 4)]
    reasons = [batch.unreadable[images[place].sha256] for place in (1, 2, 5, 6, 7)]
    assert "No such file" in reasons[0]
    assert reasons[1].startswith("changed since")
    assert all("truncated" in reason for reason in reasons[2:4])
    assert reasons[4].startswith("not an image")


def test_the_decoder_is_part_of_the_spec(nvimgcodec):
    encoder, with_pillow = small_encoder(jpeg_decoder="nvimgcodec"), small_encoder()
    assert encoder.spec.digest != with_pillow.spec.digest
    assert "jpeg_decoder" not in with_pillow.spec.to_json()
    assert encoder.spec.differences(with_pillow.spec) == [
        "preprocessing.jpeg_decoder: nvimgcodec (model), pillow (features)"
    ]


def test_predict_decodes_with_pillow(nvimgcodec):
    with_nvimgcodec, with_pillow = small_encoder(jpeg_decoder="nvimgcodec").spec, small_encoder().spec
    one, other = (preprocess_image(decode_image(jpeg()), spec.preprocessing) for spec in (with_nvimgcodec, with_pillow))
    assert np.array_equal(one, other)
    assert nvimgcodec.decoded == 0


def test_without_a_gpu_or_the_package_the_error_names_the_remedy(monkeypatch):
    with pytest.raises(ParamsError, match="jpeg_decoder: nvimgcodec needs an NVIDIA GPU; set it to pillow"):
        small_encoder(jpeg_decoder="nvimgcodec")
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    with pytest.raises(ParamsError, match=r"jpeg_decoder: .*\[gpu\]"):
        check_nvimgcodec(torch.device("cuda"))
