"""GPU extraction, run on a CPU: the network receives the same pixels as in extraction on a CPU."""

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from stand_in import draw, image_file
from support import ROOT, small_encoder

from pipeline.encoders.encoder import GPU_BATCH, restore_encoder
from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.features import decode_pool, extraction, gpu_extraction
from pipeline.features.feature_file import FeatureFile
from pipeline.features.gpu_extraction import DecodedBatch, GpuExtractor, encode_on_gpu
from pipeline.features.image_batches import ImageFile


@pytest.fixture(scope="module")
def encoder():
    return small_encoder(fit="crop")


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "images", 13)


def preprocessed(images, encoder):
    return np.stack(
        [preprocess_image(decode_image(image.path.read_bytes()), encoder.spec.preprocessing) for image in images]
    )


def features_of(images, batches):
    """The features of all images, in their order."""
    assert [key for batch in batches for key in batch.keys] == [image.sha256 for image in images]
    return np.concatenate([batch.features for batch in batches])


def test_the_network_receives_the_preprocessed_images(images, encoder, monkeypatch):
    inputs = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda pixels: inputs.append(pixels.numpy().copy()) or forward(pixels))
    list(encode_on_gpu(images, encoder, workers=2))
    (batch,) = inputs
    assert batch.shape == (GPU_BATCH, 64, 64, 3)
    assert np.array_equal(batch[: len(images)], preprocessed(images, encoder))
    assert not batch[len(images) :].any()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_gets_its_own_features(images, encoder, workers):
    many = [*images] * 80  # more batches than there is memory for
    found = features_of(many, list(encode_on_gpu(many, encoder, workers=workers)))
    expected = encoder.encode(preprocessed(images, encoder))
    assert np.allclose(found, np.tile(expected, (80, 1, 1)), atol=2e-3)
    distance = np.abs(expected[:, None] - expected[None]).max((2, 3)) + np.eye(len(expected))
    assert distance.min() > 0.01  # so that a swap would be noticed


@pytest.mark.parametrize(("name", "value"), [("platform", "win32"), ("executable", "/nowhere/python")])
def test_threads_decode_where_processes_cannot_be_started(images, encoder, tmp_path, monkeypatch, name, value):
    (tmp_path / "x.jpg").write_bytes(b"no image")
    some = [*images, image_file(tmp_path / "x.jpg")] * 40
    expected = list(encode_on_gpu(some, encoder, workers=2))
    monkeypatch.setattr(sys, name, value)
    with pytest.warns(UserWarning, match=r"process(es)? that decodes? images .*; threads decode them, which is slower"):
        found = list(encode_on_gpu(some, encoder, workers=2))
    for one, other in zip(found, expected, strict=True):
        assert one.unreadable == other.unreadable
        assert np.array_equal(one.features, other.features)


def test_unreadable_images_are_listed_and_change_no_other_row(images, encoder):
    images[1].path.write_bytes(images[1].path.read_bytes()[:200])
    images[1] = image_file(images[1].path)
    images[3].path.unlink()
    images[5].path.write_bytes(images[0].path.read_bytes())
    (batch,) = encode_on_gpu(images, encoder, workers=2)
    kept = [image for place, image in enumerate(images) if place not in (1, 3, 5)]
    assert batch.keys == [image.sha256 for image in kept]
    assert np.allclose(batch.features, encoder.encode(preprocessed(kept, encoder)), atol=2e-3)
    assert batch.unreadable[images[1].sha256].startswith("damaged")
    assert "No such file" in batch.unreadable[images[3].sha256]
    assert batch.unreadable[images[5].sha256].startswith("changed since")
    assert len(batch.unreadable) == 3


def test_a_batch_of_unreadable_images_has_no_rows(encoder, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    image = image_file(tmp_path / "x.jpg")
    (batch,) = encode_on_gpu([image], encoder, workers=2)
    assert (batch.keys, len(batch.features)) == ([], 0)
    assert list(batch.unreadable) == [image.sha256]


def test_decoding_waits_until_features_are_collected(images, encoder, monkeypatch):
    """The memory of a batch is not filled again before its features were collected."""
    collected, too_early = 0, []
    decode = decode_pool.DecodePool.decode
    many = [ImageFile(str(number), images[0].path, images[0].sha256) for number in range(30 * GPU_BATCH)]

    def checked(pool, images, slots, **how):
        first = int(images[0].image)
        if first - len(pool.slots) >= collected * GPU_BATCH:
            too_early.append(first)
        return decode(pool, images, slots, **how)

    monkeypatch.setattr(decode_pool.DecodePool, "decode", checked)
    monkeypatch.setattr(encoder, "forward", lambda pixels: torch.zeros(GPU_BATCH, encoder.regions, encoder.channels))
    collect = GpuExtractor.collect

    def counted(extractor, pending):
        nonlocal collected
        collected += 1
        return collect(extractor, pending)

    monkeypatch.setattr(GpuExtractor, "collect", counted)
    assert len(list(encode_on_gpu(many, encoder, workers=2))) == 30
    assert not too_early


def test_extraction_fills_the_store_and_the_feature_file(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "encode_on_cpu", encode_on_gpu)
    out = tmp_path / "features.h5"
    report = extraction.extract_features(images, encoder, out, store=tmp_path / "store", workers=2)
    assert (report.encoded, report.unreadable) == (len(images), {})
    file = FeatureFile.open(out)
    ordered = sorted(images, key=lambda image: image.image)
    assert list(file.images) == [image.image for image in ordered]
    assert np.allclose(file.load(file.images), encoder.encode(preprocessed(ordered, encoder)), atol=2e-3)
    again = extraction.extract_features(images, encoder, out, store=tmp_path / "store", workers=2)
    assert (again.encoded, again.from_store) == (0, len(images))


def test_an_interrupted_run_keeps_the_collected_batches_and_no_process(encoder, tmp_path, monkeypatch):
    many = draw(tmp_path / "images", 2 * GPU_BATCH)
    monkeypatch.setattr(extraction, "encode_on_cpu", encode_on_gpu)
    monkeypatch.setattr(gpu_extraction, "MAX_PENDING", 1)
    pools = []
    close = decode_pool.DecodePool.close
    monkeypatch.setattr(decode_pool.DecodePool, "close", lambda pool: (pools.extend(pool._workers), close(pool)))

    def interrupt(done, total, note):
        raise KeyboardInterrupt

    out, store = tmp_path / "features.h5", tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        extraction.extract_features(many, encoder, out, store=store, workers=2, progress=interrupt)
    assert pools
    assert all(worker._process.poll() is not None for worker in pools)
    report = extraction.extract_features(many, encoder, out, store=store, workers=2)
    assert (report.from_store, report.encoded) == (GPU_BATCH, len(many) - GPU_BATCH)


ENDLESS = """
import hashlib, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would this one
sys.path.insert(0, "tests")
from support import small_encoder
from pipeline.features.gpu_extraction import encode_on_gpu
from pipeline.features.image_batches import ImageFile
path = Path(sys.argv[1])
image = ImageFile("x", path, hashlib.sha256(path.read_bytes()).hexdigest())
try:
    for batch in encode_on_gpu([image] * 1_000_000, small_encoder(), workers=2):
        print("batch", flush=True)
finally:
    print("ended", flush=True)  # what follows is the end of an interpreter that has imported torch
"""


def test_ctrl_c_ends_everything_at_once(tmp_path):
    (image,) = draw(tmp_path, 1)
    program = [sys.executable, "-c", ENDLESS, str(image.path)]
    process = subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "batch\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.endswith("ended\n")
    assert out.count("batch") < 1000  # of a million images
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "decode_pool.py" not in err  # workers print nothing
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)


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
    pixels = np.zeros((GPU_BATCH, 64, 64, 3), np.uint8)
    pixels[: len(images)] = preprocessed(images, encoder)
    batch = extractor.collect(extractor.submit(DecodedBatch(images, [None] * len(images), torch.from_numpy(pixels))))
    assert log == [
        "enter copy stream",
        "pixels copied: recorded on copy stream",
        "leave copy stream",
        "compute stream waits for pixels copied",
        "kept for compute stream",
        "features ready: recorded on compute stream",
        "host waits for features ready",
    ]
    assert np.allclose(batch.features, encoder.encode(preprocessed(images, encoder)), atol=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_features_of_a_cpu(images, encoder):
    on_gpu = restore_encoder(encoder.spec, encoder.tensors_to_embed(), torch.device("cuda"))
    many = [*images] * 80
    found = features_of(many, list(encode_on_gpu(many, on_gpu, workers=2)))
    expected = encoder.encode(preprocessed(images, encoder))
    assert np.allclose(found, np.tile(expected, (80, 1, 1)), atol=1e-2)


@pytest.mark.parametrize("failure", [0, 2])
def test_shared_memory_is_registered_for_the_time_of_the_extraction(failure, monkeypatch):
    log = []

    class Cuda:
        def cudaHostRegister(self, address, size, flags):
            log.append(("register", address, size))
            return failure

        def cudaHostUnregister(self, address):
            log.append(("unregister", address))

    def raise_last_error(*_, device):
        log.append("first computation")
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "zeros", raise_last_error)
    monkeypatch.setattr(torch.cuda, "cudart", Cuda)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))
    slots = np.zeros((2, 4, 4, 3), np.uint8)
    expected = [("register", slots.ctypes.data, 96), "synchronize"]
    warned = pytest.warns(UserWarning, match="cannot be registered") if failure else contextlib.nullcontext()
    with warned, gpu_extraction.registered(slots, torch.device("cuda")):
        pass
    if failure:
        expected.insert(1, "first computation")  # which raises the error that the failure left behind
    else:
        expected.append(("unregister", slots.ctypes.data))
    assert log == expected
