"""Damaged features of the store, and those of another encoder, are never used: the images are encoded again."""

import json

import numpy as np
import pytest
from stand_in import SPEC, StandIn, extract

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError
from pipeline.features.feature_file import FeatureFile
from pipeline.features.store import FeatureStore
from pipeline.features.store_inventory import keep_images, stored_encoders, verify_encoder


def encoded(images, folder, encoder=None):
    """The number of images that a run encodes."""
    return extract(images, folder, encoder)[0].encoded


@pytest.fixture
def damage(images, tmp_path):
    """Replaces the only segment of a filled store: the number of images that the next run encodes."""
    expected = extract(images, tmp_path)[1]
    (path,) = tmp_path.glob("store/*/*.segment")
    whole = path.read_bytes()

    def run(content):
        path.write_bytes(content)
        report, features = extract(images, tmp_path)
        assert features == expected
        for segment in path.parent.glob("*.segment"):
            segment.unlink()
        return report.encoded

    return whole, run


def test_a_truncated_segment_is_encoded_again(damage):
    whole, run = damage
    for length in range(0, len(whole), 487):
        assert run(whole[:length]) == 11, length


def test_a_flipped_byte_in_a_segment_changes_no_feature(damage):
    whole, run = damage
    counts = {run(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]) for at in range(0, len(whole), 127)}
    assert {0, 1, 11} <= counts  # a byte without meaning, one row, or the header and so all rows


def test_a_stored_row_that_is_not_finite_is_refused_by_the_reader(images, tmp_path):
    class Broken(StandIn):
        def encode(self, pixels):
            rows = super().encode(pixels)
            rows[0, 0, 0] = np.nan
            return rows

    extract(images, tmp_path, Broken())
    with pytest.raises(ArtefactError, match=r"the row of 00.png contains values that are not finite"):
        FeatureFile.open(tmp_path / "features.h5").load(["00.png"])


def test_a_segment_of_another_shape_is_ignored(images, tmp_path):
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
    assert json.loads(path.read_text()) == {"engine": "none", "spec": json.loads(SPEC.to_json())}


def add(store, keys, value):
    with store.new_segment(keys) as segment:
        segment.add(range(len(keys)), np.full((len(keys), *store.shape), value, np.float16))
    store.refresh()


def test_the_newest_row_of_an_image_counts(tmp_path):
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    old, new = "aa" * 32, "bb" * 32
    with store.locked():
        add(store, [old, new], 1)
        add(store, [new], 2)
        rows = store.read([old, new])
        assert rows[:, 0, 0].tolist() == [1, 2]
        assert store.keys() == [old, new]
        store.forget([new])
        assert (old in store, new in store) == (True, False)


def test_rows_are_read_in_any_order_from_several_segments(tmp_path):
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    keys = [f"{number:064x}" for number in range(9)]
    with store.locked():
        for start in (0, 3, 6):
            with store.new_segment(keys[start : start + 3]) as segment:
                values = np.arange(start, start + 3, dtype=np.float16)
                segment.add(range(3), np.tile(values[:, None, None], (1, 4, 48)))
        store.refresh()
        order = [8, 0, 1, 2, 5, 4, 3, 7, 6]
        rows = store.read([keys[number] for number in order])
    assert (rows[:, 0, 0].tolist(), rows[:, 3, 47].tolist()) == (order, order)


def test_keeping_some_images_deletes_the_rows_of_the_others(images, tmp_path):
    extract(images, tmp_path)
    (encoder,) = stored_encoders(tmp_path / "store")
    kept = {image.sha256 for image in images[:4]}
    assert keep_images(tmp_path / "store", encoder.digest, kept) == 7
    assert keep_images(tmp_path / "store", encoder.digest, kept) == 0
    assert verify_encoder(tmp_path / "store", encoder.digest).intact == 4
    assert encoded(images, tmp_path) == 7
