"""Damaged features of the store, and those of another encoder, are never used: the images are encoded again."""

import json

import numpy as np
import psutil
import pytest
from stand_in import SPEC, StandIn, extract

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError
from pipeline.features import store as stores
from pipeline.features.store import FeatureStore
from pipeline.features.store_inventory import keep_images, stored_encoders, verify_encoder


def encoded(images, folder, encoder=None):
    """The number of images that a run encodes."""
    return extract(images, folder, encoder)[0].encoded


@pytest.fixture
def damage(images, tmp_path):
    """Replaces the only part of a filled store: the number of images that the next run encodes."""
    expected = extract(images, tmp_path)[1]
    (path,) = tmp_path.glob("store/*/*.h5")
    whole = path.read_bytes()

    def run(content):
        path.write_bytes(content)
        report, features = extract(images, tmp_path)
        assert features == expected
        for part in path.parent.glob("*.h5"):
            part.unlink()
        return report.encoded

    return whole, run


def test_a_truncated_part_is_encoded_again(damage):
    whole, run = damage
    for length in range(0, len(whole), 487):
        assert run(whole[:length]) == 11, length


def test_a_flipped_byte_in_a_part_changes_no_feature(damage):
    whole, run = damage
    counts = {run(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]) for at in range(0, len(whole), 127)}
    assert counts == {1, 11}  # one row, or anything else and so all rows


def test_a_part_of_another_shape_is_ignored(images, tmp_path):
    class Wider(StandIn):
        regions, channels = 2, 96

        def encode(self, pixels):
            return super().encode(pixels).reshape(-1, 2, 96)

    extract(images, tmp_path, Wider())
    assert encoded(images, tmp_path) == 11


def test_each_engine_has_its_own_rows(images, tmp_path):
    class Newer(StandIn):
        engine = "a later torch"

    extract(images, tmp_path)
    assert encoded(images, tmp_path, Newer()) == 11
    assert encoded(images, tmp_path) == 0


def test_switching_the_encoder_and_back_encodes_nothing_again(images, tmp_path):
    class Other(StandIn):
        spec = EncoderSpec.from_json(SPEC.to_json().replace('"layer":"features"', '"layer":"layer4"'))

    expected = extract(images, tmp_path)[1]
    assert encoded(images, tmp_path, Other()) == 11
    report, content = extract(images, tmp_path)
    assert (report.encoded, content) == (0, expected)


def test_the_folder_describes_its_encoder(images, tmp_path):
    extract(images, tmp_path)
    (path,) = tmp_path.glob("store/*/spec.json")
    described = {"engine": "none", "spec": json.loads(SPEC.to_json())}
    assert json.loads(path.read_text()) == described
    path.write_text('{"engine":')
    assert encoded(images, tmp_path) == 0
    assert json.loads(path.read_text()) == described


def test_a_part_that_vanishes_while_it_is_read_is_encoded_again(images, tmp_path, monkeypatch):
    expected = extract(images, tmp_path)[1]
    read = FeatureStore.read

    def vanishing(store, keys):
        for part in tmp_path.glob("store/*/*.h5"):
            part.unlink()
        monkeypatch.undo()
        store._open.cache_clear()
        return read(store, keys)

    monkeypatch.setattr(FeatureStore, "read", vanishing)
    report, content = extract(images, tmp_path)
    assert (report.encoded, content) == (11, expected)


def test_a_part_that_cannot_be_opened_once_is_read_again(images, tmp_path, monkeypatch):
    expected = extract(images, tmp_path)[1]
    (tmp_path / "features.h5").unlink()

    def failing(store, keys):
        monkeypatch.undo()
        raise ArtefactError("too many open files")

    monkeypatch.setattr(FeatureStore, "read", failing)
    report, content = extract(images, tmp_path)
    assert (report.encoded, content) == (0, expected)


def add(store, keys, value):
    with store.filling(len(keys)):
        store.add(keys, np.full((len(keys), *store.shape), value, np.float16))


def test_the_newest_row_of_an_image_counts(tmp_path):
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    old, new = "aa" * 32, "bb" * 32
    with store.locked():
        add(store, [old, new], 1)
        add(store, [new], 2)
        store.load()
        rows = store.read([old, new])
        assert rows[:, 0, 0].tolist() == [1, 2]
        assert store.keys() == [old, new]
        store.forget([new])
        assert (old in store, new in store) == (True, False)


def test_rows_are_read_in_any_order_from_several_parts(tmp_path):
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    keys = [f"{number:064x}" for number in range(9)]
    with store.locked():
        for start in (0, 3, 6):
            for number in range(start, start + 3):
                add(store, [keys[number]], number)
        order = [8, 0, 1, 2, 5, 4, 3, 7, 6]
        rows = store.read([keys[number] for number in order])
    assert (rows[:, 0, 0].tolist(), rows[:, 3, 47].tolist()) == (order, order)


def test_the_time_between_parts_grows_with_the_run(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(stores.time, "monotonic", lambda: now)
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    written = []
    with store.locked(), store.filling(400):
        for second in range(1, 200):
            now = float(second)
            store.add([f"{second:064x}"], np.zeros((1, 4, 48), np.float16))
            if len(stores.parts_of(store.folder)) > len(written):
                written.append(second)
    pauses = np.diff([0, *written])
    assert pauses.tolist() == sorted(pauses)
    assert (pauses[:9].tolist(), pauses[-1]) == ([1] * 9, 10)


def test_rows_wait_for_a_part_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "BUFFER_BYTES", 3 * 4 * 48 * 2)
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    keys = [f"{number:064x}" for number in range(8)]
    with store.locked(), store.filling(8):
        for key in keys:
            store.add([key], np.zeros((1, 4, 48), np.float16))
        assert [key in store for key in keys] == [True] * 6 + [False] * 2
    assert store.keys() == keys
    assert len(stores.parts_of(store.folder)) == 3


def test_few_parts_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "OPEN_PARTS", 2)
    monkeypatch.setattr(stores, "BUFFER_BYTES", 0)
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    keys = [f"{number:064x}" for number in range(20)]
    with store.locked():
        before = psutil.Process().num_fds()
        for number, key in enumerate(keys):
            add(store, [key], number)
        store.load()
        assert store.read(keys)[:, 0, 0].tolist() == list(range(20))
        assert psutil.Process().num_fds() <= before + 2


def test_keeping_some_images_deletes_the_rows_of_the_others(images, tmp_path):
    extract(images, tmp_path)
    (encoder,) = stored_encoders(tmp_path / "store")
    kept = {image.sha256 for image in images[:4]}
    assert keep_images(tmp_path / "store", encoder.digest, kept) == 7
    assert keep_images(tmp_path / "store", encoder.digest, kept) == 0
    (encoder,) = stored_encoders(tmp_path / "store")
    assert encoder.images == 4
    assert verify_encoder(tmp_path / "store", encoder.digest) == (0, [])
    assert encoded(images, tmp_path) == 7
