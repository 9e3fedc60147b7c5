"""Encoding as an accelerator does it, on a CPU: the network sees the same pixels in whatever way they get there."""

import contextlib
import hashlib
import zlib

import numpy as np
import pytest
import torch
from conftest import small_encoder
from PIL import Image

from pipeline.encoders import images
from pipeline.encoders.encoder import ACCELERATOR_BATCH
from pipeline.features import extraction
from pipeline.features import gpu_extraction as conveyor
from pipeline.features.feature_file import FeatureFile
from pipeline.features.gpu_extraction import PIECE, GpuExtractor, on_device
from pipeline.features.image_batches import Picture


@pytest.fixture(scope="module", params=["squash", "crop"])
def encoder(request):
    return small_encoder(request.param)


def saved(path, size, mode="RGB", **options):
    """A smooth picture with some noise."""
    random = np.random.default_rng(zlib.crc32(path.name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(coarse).astype(int) + random.integers(-9, 9, (size[1], size[0], 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert(mode).save(path, **options)
    return Picture(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def pictures(tmp_path):
    """Thirteen: several of one shape, some of the network's own size, some that threads scale."""
    made = [saved(tmp_path / f"a{n}.jpg", (90, 70), quality=90) for n in range(4)]
    made += [saved(tmp_path / f"b{n}.jpg", (70, 90 + n)) for n in range(2)]
    made += [saved(tmp_path / "grey.jpg", (90, 70), "L"), saved(tmp_path / "print.jpg", (90, 70), "CMYK")]
    made += [saved(tmp_path / "own.png", (64, 64)), saved(tmp_path / "clear.png", (80, 64), "RGBA")]
    made += [saved(tmp_path / "large.png", (120, 100)), saved(tmp_path / "wide.png", (9000, 1))]
    turned = Image.Exif()
    turned[0x0112] = 6
    return [*made, saved(tmp_path / "turned.jpg", (90, 70), exif=turned)]


@pytest.fixture(autouse=True)
def pictures_are_large_early(monkeypatch):
    monkeypatch.setattr(conveyor, "LARGE", 11_000)


def prepared(pictures, encoder):
    return np.stack([encoder.prepare(images.decode(one.path.read_bytes())) for one in pictures])


def pieces_of(pictures, size=PIECE):
    return [(start, pictures[start : start + size]) for start in range(0, len(pictures), size)]


def seen(line, pictures, monkeypatch):
    """What the network gets for each picture."""
    given = []
    forward = line.encoder.forward

    def noting(pixels):
        given.append(pixels.numpy().copy())
        return forward(pixels)

    monkeypatch.setattr(line.encoder, "forward", noting)
    flight = line.launch([line.open(piece) for piece in pieces_of(pictures, 5)])
    line.land(flight)
    (batch,) = given
    assert batch.shape == (ACCELERATOR_BATCH, 64, 64, 3)
    assert not batch[len(pictures) :].any()
    return batch[np.argsort(flight.places)]


def test_the_network_sees_what_prepare_gives(pictures, encoder, monkeypatch):
    line = GpuExtractor(encoder)
    assert line.scales
    opened = line.open((0, pictures))
    scaled = {picture.image for picture, found in zip(pictures, opened.pictures, strict=True) if found.scaled}
    # The whole of 9,000 x 1 pixels cannot be made square exactly; its centre can.
    assert scaled == {"large.png"} | (set() if encoder.spec.transform.shorter_side else {"wide.png"})
    assert np.array_equal(seen(line, pictures, monkeypatch), prepared(pictures, encoder))


def test_a_device_that_computes_with_fewer_bits_scales_nothing(pictures, encoder, monkeypatch):
    monkeypatch.setattr(conveyor, "resample", lambda pixels, transform: torch.zeros(len(pixels), 64, 64, 3))
    line = GpuExtractor(encoder)
    assert not line.scales
    assert all(picture.scaled for picture in line.open((0, pictures)).pictures)
    assert np.array_equal(seen(line, pictures, monkeypatch), prepared(pictures, encoder))


@pytest.mark.parametrize("workers", [1, 3])
def test_every_picture_gets_its_own_row(pictures, encoder, workers):
    many = [*pictures] * 20  # four batches, more than are under way at a time
    found = list(on_device(iter(pieces_of(many)), encoder, workers))
    places = [place for places, _, _ in found for place in places]
    assert sorted(places) == list(range(len(many)))
    rows = np.concatenate([rows for _, rows, _ in found])[np.argsort(places)]
    expected = encoder.encode(prepared(pictures, encoder))
    assert np.allclose(rows, np.tile(expected, (20, 1, 1)), atol=2e-3)
    apart = np.abs(expected[:, None] - expected[None]).max((2, 3)) + np.eye(len(expected))
    assert apart.min() > 0.01  # so that another one's row would be seen


def test_bad_pictures_are_named_and_move_no_row(pictures, encoder):
    damaged = pictures[1].path.read_bytes()[:600]
    pictures[1].path.write_bytes(damaged)
    pictures[1] = Picture("a1.jpg", pictures[1].path, hashlib.sha256(damaged).hexdigest())
    pictures[3].path.unlink()
    pictures[5].path.write_bytes(pictures[0].path.read_bytes())
    line = GpuExtractor(encoder)
    places, rows, bad = line.land(line.launch([line.open((100, pictures))]))
    assert sorted(places) == [100, 102, 104, *range(106, 100 + len(pictures))]
    kept = [pictures[place - 100] for place in places]
    assert np.allclose(rows, encoder.encode(prepared(kept, encoder)), atol=2e-3)
    assert bad[pictures[1].sha256].startswith("damaged")
    assert "No such file" in bad[pictures[3].sha256]
    assert bad[pictures[5].sha256].startswith("changed since")
    assert len(bad) == 3


def test_a_batch_without_a_single_good_picture_has_no_rows(encoder, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    picture = Picture("x.jpg", tmp_path / "x.jpg", hashlib.sha256(b"x").hexdigest())
    (found,) = on_device(iter([(0, [picture])]), encoder, 2)
    assert found[:2] == ([], None)
    assert list(found[2]) == [picture.sha256]


def test_memory_is_used_again_only_when_its_copy_is_done(encoder):
    class Copy:
        done = False

        def synchronize(self):
            self.done = True

    line = GpuExtractor(encoder)
    line._staging.clear()
    copies = [Copy() for _ in range(conveyor.UNDER_WAY + 1)]
    hosts = [torch.empty(100, dtype=torch.uint8) for _ in copies]
    line._staging.extend(zip(hosts, copies, strict=True))
    assert line._stage(80) is hosts[0]
    assert [copy.done for copy in copies] == [True, False, False, False]
    line._staging.append((hosts[0], Copy()))
    assert len(line._stage(101)) >= 101  # too small a one is not used
    assert copies[1].done


def test_extraction_on_a_device_fills_the_store_and_the_cache(pictures, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "_on_threads", on_device)
    out = tmp_path / "features.h5"
    result = extraction.extract_features(pictures, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (result.encoded, result.unreadable) == (len(pictures), {})
    cache = FeatureFile.open(out)
    order = sorted(pictures, key=lambda one: one.image)
    assert list(cache.images) == [one.image for one in order]
    assert np.allclose(cache.load(cache.images), encoder.encode(prepared(order, encoder)), atol=2e-3)
    again = extraction.extract_features(pictures, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (again.encoded, again.from_store) == (0, len(pictures))


def test_an_interruption_keeps_what_has_landed(pictures, encoder, tmp_path, monkeypatch):
    many = [saved(tmp_path / f"more{number:03d}.png", (20, 20 + number % 3)) for number in range(7 * PIECE)]
    monkeypatch.setattr(extraction, "_on_threads", on_device)
    monkeypatch.setattr(conveyor, "UNDER_WAY", 1)

    def interrupted(done, total, note):
        raise KeyboardInterrupt

    out = tmp_path / "features.h5"
    with pytest.raises(KeyboardInterrupt):
        extraction.extract_features(
            many, encoder, out, store=tmp_path / "store", batch_size=PIECE, workers=2, progress=interrupted
        )
    result = extraction.extract_features(many, encoder, out, store=tmp_path / "store", batch_size=PIECE, workers=2)
    assert (result.from_store, result.encoded) == (ACCELERATOR_BATCH, len(many) - ACCELERATOR_BATCH)


def test_streams_wait_for_each_other_where_they_must(pictures, encoder, monkeypatch):
    """What is asked of CUDA, in its order, of stand-ins that note it; the tensors stay where they are."""
    log, names = [], iter(("pixels there", "rows there"))

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event.name}")

    class Event:
        def record(self, stream):
            self.name = next(names)
            log.append(f"{self.name}: noted on {stream.name}")

        def synchronize(self):
            log.append(f"the host waits for {self.name}")

    @contextlib.contextmanager
    def within(stream):
        log.append(f"on {stream.name}")
        yield
        log.append(f"off {stream.name}")

    network = Stream("network")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: network)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    line = GpuExtractor(encoder)
    monkeypatch.setattr(line, "_cuda", True)
    monkeypatch.setattr(line, "_copying", Stream("copying"))
    monkeypatch.setattr(line, "_pinned", lambda shape, dtype: torch.empty(*shape, dtype=dtype))
    places, rows, _ = line.land(line.launch([line.open((0, pictures))]))
    assert log == [
        "on copying",
        "pixels there: noted on copying",
        "off copying",
        "network waits for pixels there",
        "kept for network",
        "rows there: noted on network",
        "the host waits for rows there",
    ]
    assert np.allclose(rows[np.argsort(places)], encoder.encode(prepared(pictures, encoder)), atol=2e-3)
