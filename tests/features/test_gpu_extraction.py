"""GPU extraction, run on a CPU: the network receives the same pixels as in extraction on a CPU."""

import contextlib
import hashlib
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support import small_encoder

from pipeline.encoders.encoder import GPU_BATCH
from pipeline.encoders.images import decode_image
from pipeline.features import extraction, gpu_extraction
from pipeline.features.feature_file import FeatureFile
from pipeline.features.gpu_extraction import CHUNK, GpuExtractor, encode_on_gpu
from pipeline.features.image_batches import Batch, ImageFile, split_into_batches


@pytest.fixture(scope="module", params=["stretch", "crop"])
def encoder(request):
    return small_encoder(request.param)


def save_image(path, size, mode="RGB", **options):
    """A smooth image with some noise."""
    random = np.random.default_rng(zlib.crc32(path.name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(coarse).astype(int) + random.integers(-9, 9, (size[1], size[0], 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert(mode).save(path, **options)
    return ImageFile(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def images(tmp_path):
    """Thirteen images: several of one shape, one of the network's own size, some that the threads resize."""
    made = [save_image(tmp_path / f"a{n}.jpg", (90, 70), quality=90) for n in range(4)]
    made += [save_image(tmp_path / f"b{n}.jpg", (70, 90 + n)) for n in range(2)]
    made += [save_image(tmp_path / "gray.jpg", (90, 70), "L"), save_image(tmp_path / "print.jpg", (90, 70), "CMYK")]
    made += [save_image(tmp_path / "own.png", (64, 64)), save_image(tmp_path / "clear.png", (80, 64), "RGBA")]
    made += [save_image(tmp_path / "large.png", (120, 100)), save_image(tmp_path / "wide.png", (9000, 1))]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return [*made, save_image(tmp_path / "rotated.jpg", (90, 70), exif=rotated)]


@pytest.fixture(autouse=True)
def low_resize_limit(monkeypatch):
    monkeypatch.setattr(gpu_extraction, "MAX_GPU_RESIZE_PIXELS", 11_000)


def preprocessed(images, encoder):
    return np.stack([encoder.preprocess(decode_image(image.path.read_bytes())) for image in images])


def network_input(extractor, images, monkeypatch):
    """Return what the network receives for each image."""
    inputs = []
    forward = extractor.encoder.forward

    def recording(pixels):
        inputs.append(pixels.numpy().copy())
        return forward(pixels)

    monkeypatch.setattr(extractor.encoder, "forward", recording)
    pending = extractor.submit([extractor.decode(chunk) for chunk in split_into_batches(images, 5)])
    extractor.collect(pending)
    (batch,) = inputs
    assert batch.shape == (GPU_BATCH, 64, 64, 3)
    assert not batch[len(images) :].any()
    return batch[np.argsort(pending.rows)]


def test_the_network_receives_the_preprocessed_images(images, encoder, monkeypatch):
    extractor = GpuExtractor(encoder)
    assert extractor.resizes_on_device
    decoded = extractor.decode(Batch(0, images)).decoded
    resized = {image.image for image, found in zip(images, decoded, strict=True) if found.resized}
    # 9,000 x 1 pixels cannot be stretched to a square exactly; their center can be cropped.
    assert resized == {"large.png"} | (set() if encoder.spec.preprocessing.shorter_side else {"wide.png"})
    assert np.array_equal(network_input(extractor, images, monkeypatch), preprocessed(images, encoder))


def test_a_device_that_computes_with_fewer_bits_resizes_nothing(images, encoder, monkeypatch):
    monkeypatch.setattr(gpu_extraction, "resample", lambda pixels, _: torch.zeros(len(pixels), 64, 64, 3))
    extractor = GpuExtractor(encoder)
    assert not extractor.resizes_on_device
    assert all(image.resized for image in extractor.decode(Batch(0, images)).decoded)
    assert np.array_equal(network_input(extractor, images, monkeypatch), preprocessed(images, encoder))


@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_gets_its_own_features(images, encoder, workers):
    many = [*images] * 20  # more batches than are pending at a time
    found = list(encode_on_gpu(many, encoder, batch_size=1, workers=workers))
    rows = [row for batch in found for row in batch.rows]
    assert sorted(rows) == list(range(len(many)))
    features = np.concatenate([batch.features for batch in found])[np.argsort(rows)]
    expected = encoder.encode(preprocessed(images, encoder))
    assert np.allclose(features, np.tile(expected, (20, 1, 1)), atol=2e-3)
    distance = np.abs(expected[:, None] - expected[None]).max((2, 3)) + np.eye(len(expected))
    assert distance.min() > 0.01  # so that a swap would be noticed


def test_unreadable_images_are_listed_and_change_no_other_row(images, encoder):
    damaged = images[1].path.read_bytes()[:600]
    images[1].path.write_bytes(damaged)
    images[1] = ImageFile("a1.jpg", images[1].path, hashlib.sha256(damaged).hexdigest())
    images[3].path.unlink()
    images[5].path.write_bytes(images[0].path.read_bytes())
    extractor = GpuExtractor(encoder)
    batch = extractor.collect(extractor.submit([extractor.decode(Batch(100, images))]))
    assert sorted(batch.rows) == [100, 102, 104, *range(106, 100 + len(images))]
    kept = [images[row - 100] for row in batch.rows]
    assert np.allclose(batch.features, encoder.encode(preprocessed(kept, encoder)), atol=2e-3)
    assert batch.unreadable[images[1].sha256].startswith("damaged")
    assert "No such file" in batch.unreadable[images[3].sha256]
    assert batch.unreadable[images[5].sha256].startswith("changed since")
    assert len(batch.unreadable) == 3


def test_a_batch_of_unreadable_images_has_no_rows(encoder, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    image = ImageFile("x.jpg", tmp_path / "x.jpg", hashlib.sha256(b"x").hexdigest())
    (batch,) = encode_on_gpu([image], encoder, batch_size=1, workers=2)
    assert (batch.rows, len(batch.features)) == ([], 0)
    assert list(batch.unreadable) == [image.sha256]


def test_pinned_memory_is_reused_only_after_its_copy(encoder):
    class Copy:
        done = False

        def synchronize(self):
            self.done = True

    extractor = GpuExtractor(encoder)
    extractor._staging.clear()
    copies = [Copy() for _ in range(gpu_extraction.MAX_PENDING + 1)]
    hosts = [torch.empty(100, dtype=torch.uint8) for _ in copies]
    extractor._staging.extend(zip(hosts, copies, strict=True))
    assert extractor._staging_memory(80) is hosts[0]
    assert [copy.done for copy in copies] == [True, False, False, False]
    extractor._staging.append((hosts[0], Copy()))
    assert len(extractor._staging_memory(101)) >= 101  # memory that is too small is not reused
    assert copies[1].done


def test_extraction_fills_the_store_and_the_feature_file(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "encode_on_cpu", encode_on_gpu)
    out = tmp_path / "features.h5"
    report = extraction.extract_features(images, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (report.encoded, report.unreadable) == (len(images), {})
    file = FeatureFile.open(out)
    ordered = sorted(images, key=lambda image: image.image)
    assert list(file.images) == [image.image for image in ordered]
    assert np.allclose(file.load(file.images), encoder.encode(preprocessed(ordered, encoder)), atol=2e-3)
    again = extraction.extract_features(images, encoder, out, store=tmp_path / "store", batch_size=5, workers=2)
    assert (again.encoded, again.from_store) == (0, len(images))


def test_an_interrupted_run_keeps_the_collected_batches(encoder, tmp_path, monkeypatch):
    many = [save_image(tmp_path / f"{number:03d}.png", (20, 20 + number % 3)) for number in range(7 * CHUNK)]
    monkeypatch.setattr(extraction, "encode_on_cpu", encode_on_gpu)
    monkeypatch.setattr(gpu_extraction, "MAX_PENDING", 1)

    def interrupt(done, total, note):
        raise KeyboardInterrupt

    out, store = tmp_path / "features.h5", tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        extraction.extract_features(many, encoder, out, store=store, batch_size=CHUNK, workers=2, progress=interrupt)
    report = extraction.extract_features(many, encoder, out, store=store, batch_size=CHUNK, workers=2)
    assert (report.from_store, report.encoded) == (GPU_BATCH, len(many) - GPU_BATCH)


def test_cuda_streams_wait_for_each_other(images, encoder, monkeypatch):
    """The CUDA calls in their order, on stand-ins that record them; the tensors stay on the CPU."""
    log, names = [], iter(("pixels copied", "features ready"))

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event.name}")

    class Event:
        def record(self, stream):
            self.name = next(names)
            log.append(f"{self.name}: recorded on {stream.name}")

        def synchronize(self):
            log.append(f"host waits for {self.name}")

    @contextlib.contextmanager
    def on_stream(stream):
        log.append(f"enter {stream.name}")
        yield
        log.append(f"leave {stream.name}")

    compute = Stream("compute stream")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    extractor = GpuExtractor(encoder)
    monkeypatch.setattr(extractor, "_cuda", True)
    monkeypatch.setattr(extractor, "_copy_stream", Stream("copy stream"))
    monkeypatch.setattr(extractor, "_allocate_pinned", lambda shape, dtype: torch.empty(*shape, dtype=dtype))
    batch = extractor.collect(extractor.submit([extractor.decode(Batch(0, images))]))
    assert log == [
        "enter copy stream",
        "pixels copied: recorded on copy stream",
        "leave copy stream",
        "compute stream waits for pixels copied",
        "kept for compute stream",
        "features ready: recorded on compute stream",
        "host waits for features ready",
    ]
    assert np.allclose(batch.features[np.argsort(batch.rows)], encoder.encode(preprocessed(images, encoder)), atol=2e-3)
