"""Encoding as an accelerator does it, on a CPU: the network sees the same pixels in whatever way they get there."""

import hashlib
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.features import conveyor, extraction, images
from pipeline.features.batch import Picture
from pipeline.features.cache import FeatureCache
from pipeline.features.conveyor import Conveyor, on_device
from pipeline.features.encoder import ACCELERATOR_BATCH, build


def encoder_of(fit):
    return build(
        name="alexnet",
        weights="none",
        node="auto",
        grid=2,
        image_size=64,
        fit=fit,
        precision="float32",
        seed=1,
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module", params=["squash", "crop"])
def encoder(request):
    return encoder_of(request.param)


def saved(path, size, mode="RGB", **options):
    """A smooth picture with some noise."""
    random = np.random.default_rng(zlib.crc32(path.name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(coarse).astype(int) + random.integers(-9, 9, (size[1], size[0], 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert(mode).save(path, **options)
    return Picture(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def pictures(tmp_path):
    """Some of each kind, several of one shape, some of the network's own size."""
    made = [saved(tmp_path / f"a{n}.jpg", (90, 70), quality=90) for n in range(4)]
    made += [saved(tmp_path / f"b{n}.jpg", (70, 90 + n)) for n in range(2)]
    made += [saved(tmp_path / "grey.jpg", (90, 70), "L"), saved(tmp_path / "print.jpg", (90, 70), "CMYK")]
    made += [saved(tmp_path / "slow.jpg", (90, 70), progressive=True), saved(tmp_path / "own.png", (64, 64))]
    made += [saved(tmp_path / "clear.png", (80, 64), "RGBA"), saved(tmp_path / "long.png", (30, 4000))]
    turned = Image.Exif()
    turned[images.ORIENTATION] = 6
    return [*made, saved(tmp_path / "turned.jpg", (90, 70), exif=turned)]


def through_pillow(files):
    """A stand-in for the device's decoder."""
    return [
        torch.from_numpy(np.array(images.decode(file.numpy().tobytes()))).permute(2, 0, 1).contiguous()
        for file in files
    ]


def prepared(pictures, encoder):
    return np.stack([encoder.prepare(images.decode(one.path.read_bytes())) for one in pictures])


@pytest.mark.parametrize("decode", [None, through_pillow], ids=["threads", "device"])
def test_the_network_sees_what_prepare_gives(pictures, encoder, decode, monkeypatch):
    monkeypatch.setattr(conveyor, "ON_DEVICE", 1.0)
    line = Conveyor(encoder, decode)
    opened = line.open((0, pictures))
    waiting = sum(isinstance(content, bytes) for content in opened.contents)
    assert waiting == (7 if decode else 0)  # a0 to a3, b0, b1 and the grey one
    batch = line.pixels(opened.contents, line._decoded(opened))
    assert batch.shape == (ACCELERATOR_BATCH, 64, 64, 3)
    assert np.array_equal(batch[: len(pictures)].numpy(), prepared(pictures, encoder))
    assert not batch[len(pictures) :].any()


def test_rows_come_in_order_and_are_the_encoders(pictures, encoder):
    many = [*pictures] * 13  # more than two batches, and more than are under way at a time with one thread
    batches = [(start, many[start : start + 40]) for start in range(0, len(many), 40)]
    found = list(on_device(iter(batches), encoder, 1))
    assert [place for places, _, _ in found for place in places] == list(range(len(many)))
    rows = np.concatenate([rows for _, rows, _ in found])
    assert np.allclose(rows, np.tile(encoder.encode(prepared(pictures, encoder)), (13, 1, 1)), atol=2e-3)
    assert np.array_equal(rows[: len(pictures)], rows[-len(pictures) :])


def test_a_quarter_is_left_to_the_threads_by_the_files_alone(encoder, tmp_path):
    some = [saved(tmp_path / f"{number:03d}.jpg", (20 + number, 20)) for number in range(120)]
    line = Conveyor(encoder, through_pillow)
    sent = [isinstance(content, bytes) for content in line.open((0, some)).contents]
    assert 60 < sum(sent) < 110
    assert sent == [int(one.sha256, 16) < 0.75 * 16**64 for one in some]


@pytest.mark.parametrize("decode", [None, through_pillow], ids=["threads", "device"])
def test_bad_pictures_are_named_and_move_no_row(pictures, encoder, decode, monkeypatch):
    monkeypatch.setattr(conveyor, "ON_DEVICE", 1.0)
    monkeypatch.setattr(images, "is_plain_jpeg", lambda content: content[:2] == b"\xff\xd8")
    damaged = pictures[1].path.read_bytes()[:600]
    pictures[1].path.write_bytes(damaged)
    pictures[1] = Picture("a1.jpg", pictures[1].path, hashlib.sha256(damaged).hexdigest())
    pictures[3].path.unlink()
    pictures[5].path.write_bytes(pictures[0].path.read_bytes())

    def failing(files):
        try:
            return decode(files)
        except images.ImageError as error:
            raise RuntimeError("nvjpegDecode failed") from error

    line = Conveyor(encoder, failing if decode else None)
    places, rows, bad = line.land(line.launch(line.open((100, pictures))))
    assert places == [100, 102, 104, *range(106, 100 + len(pictures))]
    kept = [pictures[place - 100] for place in places]
    assert np.allclose(rows, encoder.encode(prepared(kept, encoder)), atol=2e-3)
    assert bad[pictures[1].sha256].startswith("damaged")
    assert "No such file" in bad[pictures[3].sha256]
    assert bad[pictures[5].sha256].startswith("changed since")


def test_a_batch_without_a_single_good_picture_has_no_rows(encoder, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    picture = Picture("x.jpg", tmp_path / "x.jpg", hashlib.sha256(b"x").hexdigest())
    (found,) = on_device(iter([(0, [picture])]), encoder, 2)
    assert found[:2] == ([], None)
    assert list(found[2]) == [picture.sha256]


def test_extraction_on_a_device_fills_the_store_and_the_cache(pictures, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_on_threads", on_device)
    out = tmp_path / "features.h5"
    result = extraction.extract_features(pictures, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (result.encoded, result.unreadable) == (len(pictures), {})
    cache = FeatureCache.open(out)
    order = sorted(pictures, key=lambda one: one.image)
    assert list(cache.images) == [one.image for one in order]
    assert np.allclose(cache.load(cache.images), encoder.encode(prepared(order, encoder)), atol=2e-3)
    again = extraction.extract_features(pictures, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (again.encoded, again.from_store) == (0, len(pictures))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a0.jpg", True),
        ("grey.jpg", True),
        ("print.jpg", False),
        ("slow.jpg", False),
        ("turned.jpg", False),
        ("own.png", False),
    ],
)
def test_only_plain_jpegs_are_for_other_decoders(pictures, name, plain):
    (path,) = (one.path for one in pictures if one.image == name)
    assert images.is_plain_jpeg(path.read_bytes()) is plain


def test_a_jpeg_that_is_cut_off_or_in_other_colours_is_not_plain(pictures):
    content = pictures[0].path.read_bytes()
    assert images.is_plain_jpeg(content + b"\0\0")
    assert not images.is_plain_jpeg(content[:-20])
    assert not images.is_plain_jpeg(b"")
    other = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(other, "JPEG", keep_rgb=True)
    assert not images.is_plain_jpeg(other.getvalue())


def test_torchcodec_unpacks_as_pillow_does_but_for_rounding(pictures):
    try:
        from torchcodec.decoders import decode_jpeg
    except Exception as error:
        pytest.skip(f"needs the extra gpu, for this build of torch: {error}")
    files = [one.path for one in pictures if one.image[:2] in {"a0", "b0", "b1", "gr"}]
    found = decode_jpeg(
        [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in files], mode="RGB"
    )
    for path, pixels in zip(files, found, strict=True):
        expected = np.asarray(images.decode(path.read_bytes())).astype(int)
        assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2
