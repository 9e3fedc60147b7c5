"""Features reach training batch by batch, the same from the device's memory as from the file, in constant memory."""

import multiprocessing
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import small_params

from pipeline.decoders.registry import make_decoder
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import FeatureFile
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.determinism import deterministic
from pipeline.training.feature_source import (
    PREFETCHED_BATCHES,
    ResidentFeatures,
    StreamedFeatures,
    chunks,
    open_features,
    with_features,
)
from pipeline.training.trainer import Trainer, TrainingData
from pipeline.training.validation import Validation

CPU = torch.device("cpu")


class Rows:
    """Rows in memory."""

    def __init__(self, features):
        self.features, self.shape = features, features.shape

    def __getitem__(self, row):
        return self.features[row]

    def prefetch(self, rows):
        pass


def make_file(features):
    """An open features file with these rows, image i being named by its number."""
    crc32 = np.array([zlib.crc32(np.ascontiguousarray(row).data) for row in features], np.uint32)
    images = tuple(f"{number:05d}" for number in range(len(features)))
    return FeatureFile(Path("features.h5"), None, images, Rows(features), crc32)


@pytest.fixture
def file():
    return make_file(np.random.default_rng(0).random((300, 4, 6)).astype(np.float16))


IMAGES = [f"{number:05d}" for number in (7, 3, 299, 0, 150)]
INDICES = [torch.tensor(batch) for batch in ([0, 2], [4, 4, 1], [3])]


def whole(features):
    """The features of a decoder that reads every region."""
    return features


def mean(features):
    """The features of a decoder that reads the mean over regions."""
    return features.float().mean(1, keepdim=True)


def test_streamed_and_resident_features_are_equal(file):
    expected = torch.from_numpy(file.load(IMAGES))
    for source in (StreamedFeatures(file, IMAGES, CPU), ResidentFeatures(expected)):
        assert len(source) == 5
        for index, features in zip(INDICES, source.batches(INDICES), strict=True):
            assert features.dtype == torch.float32
            assert torch.equal(features, expected[index].float())


def test_a_decoder_that_reads_the_mean_gets_it_from_memory(file):
    source = open_features(file, list(file.images), mean, CPU)
    assert isinstance(source, ResidentFeatures)
    (pooled,) = source.batches([torch.arange(300)])
    torch.testing.assert_close(pooled, torch.from_numpy(file.load(file.images)).float().mean(1, keepdim=True))


def test_a_decoder_that_reads_every_region_streams_on_a_cpu(file):
    assert isinstance(open_features(file, IMAGES, whole, CPU), StreamedFeatures)


@pytest.mark.parametrize(("pool", "size"), [(whole, 5 * 4 * 6 * 2), (lambda rows: rows.float(), 5 * 4 * 6 * 4)])
def test_the_memory_that_features_need_is_that_of_their_type(file, monkeypatch, pool, size):
    asked = []
    monkeypatch.setattr("pipeline.training.feature_source._fits", lambda size, device: asked.append(size))
    open_features(file, IMAGES, pool, CPU)
    assert asked == [size]


def test_a_damaged_row_stops_the_stream_by_name(file):
    damaged = replace(file, crc32=np.where(np.arange(300) == 3, 0, file.crc32).astype(np.uint32))
    with pytest.raises(ArtefactError, match="00003 is damaged"):
        list(StreamedFeatures(damaged, IMAGES, CPU).batches(INDICES))


def test_batches_and_their_features_belong_together(file):
    captions = [[1, 4, 2]] * 300
    batches = Batches(captions, list(range(300)), batch_size=7, seed=1)
    source = StreamedFeatures(file, list(file.images), CPU)
    for batch, features in with_features(batches.epoch(1), source, CPU):
        assert torch.equal(features, torch.from_numpy(file.load(file.images))[batch.images].float())


def test_only_a_few_batches_are_read_ahead(file):
    requested = []

    def indices():
        for number in range(100):
            requested.append(number)
            yield torch.tensor([number])

    stream = StreamedFeatures(file, list(file.images), CPU).batches(indices())
    next(stream)
    assert len(requested) == PREFETCHED_BATCHES + 1
    stream.close()


def anonymous_memory():
    """Bytes of this process's memory that are not page cache."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def peak_memory(function):
    """The largest anonymous memory during a call, sampled."""
    samples, done = [anonymous_memory()], threading.Event()

    def watch():
        while not done.is_set():
            samples.append(anonymous_memory())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(samples)


def memory_growth(folder, kind):
    """How many bytes more a training on 6,000 images needs than one on 1,000, and how many more their features have."""
    regions, channels, few, many = 49, 512, 1000, 6000  # 50 and 300 MB; both fill several chunks
    rows = np.memmap(folder / "rows", np.float16, "w+", shape=(many, regions, channels))
    random = np.random.default_rng(0)
    for start in range(0, many, 100):
        rows[start : start + 100] = random.random((1, regions, channels), np.float32)
    rows.flush()
    file = make_file(np.memmap(folder / "rows", np.float16, "r", shape=rows.shape).view(np.ndarray))
    vocabulary = Vocabulary.build([["a", "b"]], min_count=1, tokenizer="ptb")
    params = small_params(decoder={"kind": kind}, train={"batch_size": 64, "epochs": 1})

    def train_on(images):
        decoder = make_decoder(
            params.decoder.model_dump(), vocabulary=len(vocabulary), regions=regions, channels=channels
        )
        names = list(file.images[:images])
        decoder.normalize.fit(StreamedFeatures(file, names, CPU).read(chunks(images)))
        batches = Batches(vocabulary.encode([["a", "b"]] * images), list(range(images)), batch_size=64, seed=1)
        features = open_features(file, names, decoder.pool, CPU)
        validation = Validation(
            open_features(file, names[:200], decoder.pool, CPU),
            Batches(vocabulary.encode([["a", "b"]] * 200), list(range(200)), batch_size=64, seed=1),
            [["a b"]] * 200,
            vocabulary,
            device=CPU,
        )
        with deterministic(1):
            Trainer(decoder, TrainingData(features, batches), validation, params.train, seed=1).run()

    train_on(few)  # loads what a first training needs
    growth = -peak_memory(lambda: train_on(few)) + peak_memory(lambda: train_on(many))
    return growth, rows.nbytes * (many - few) // many


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", ["attention", "inject"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch, kind):
    """In a new process, whose allocator returns the memory of large arrays at once."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        growth, additional = process.submit(memory_growth, tmp_path, kind).result()
    assert growth < 0.4 * additional, "most of the additional features are in memory"
