"""A store that was damaged, or made for something else, is never trusted: its rows are encoded again."""

import json
import tracemalloc

import numpy as np
import pytest
from stand_in import SPEC, StandIn, draw

from pipeline.encoders.spec import EncoderSpec
from pipeline.features.extraction import extract_features
from pipeline.features.image_batches import Picture
from pipeline.features.store import FeatureStore, first_occurrences, keys_of


@pytest.fixture
def pictures(tmp_path):
    return draw(tmp_path / "pictures")


def extract(pictures, folder, encoder=None):
    encoder = encoder or StandIn()
    extract_features(pictures, encoder, folder / "features.h5", store=folder / "store", batch_size=3, workers=1)
    return encoder.encoded, (folder / "features.h5").read_bytes()


def segment_of(folder):
    (path,) = folder.glob("store/*/*.segment")
    return path


def test_every_truncation_of_a_segment_is_repaired(pictures, tmp_path):
    expected = extract(pictures, tmp_path)[1]
    whole = segment_of(tmp_path).read_bytes()
    for length in range(0, len(whole), 487):
        segment_of(tmp_path).write_bytes(whole[:length])
        assert extract(pictures, tmp_path) == (11, expected), length
        for path in tmp_path.glob("store/*/*.segment"):
            path.unlink()
        segment_of_first = next(tmp_path.glob("store/*")) / "000001.segment"
        segment_of_first.write_bytes(whole)


def test_a_flipped_byte_anywhere_in_a_segment_changes_no_row(pictures, tmp_path):
    expected = extract(pictures, tmp_path)[1]
    path = segment_of(tmp_path)
    whole = path.read_bytes()
    encoded = set()
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        count, content = extract(pictures, tmp_path)
        assert content == expected, place
        encoded.add(count)
        for made in path.parent.glob("*.segment"):
            made.unlink()
    assert {0, 1, 11} <= encoded  # nothing was lost, one row, or the header and so all of them


def test_a_row_marked_as_done_that_is_not_finite_is_not_believed_by_the_reader(pictures, tmp_path):
    from pipeline.errors import ArtefactError
    from pipeline.features.feature_file import FeatureFile

    class Broken(StandIn):
        def encode(self, pixels):
            rows = super().encode(pixels)
            rows[0, 0, 0] = np.nan
            return rows

    extract(pictures, tmp_path, Broken())
    with pytest.raises(ArtefactError, match=r"the row of 00.png is not finite"):
        FeatureFile.open(tmp_path / "features.h5").load(["00.png"])


def test_a_segment_of_another_shape_is_left_alone(pictures, tmp_path):
    class Wider(StandIn):
        regions, channels = 2, 96

        def encode(self, pixels):
            return super().encode(pixels).reshape(-1, 2, 96)

    extract(pictures, tmp_path, Wider())
    assert extract(pictures, tmp_path)[0] == 11


def test_another_engine_computes_its_own_rows(pictures, tmp_path):
    class Newer(StandIn):
        engine = "torch of tomorrow"

    extract(pictures, tmp_path)
    assert extract(pictures, tmp_path, Newer())[0] == 11
    assert extract(pictures, tmp_path)[0] == 0


def test_switching_the_encoder_and_back_encodes_nothing_again(pictures, tmp_path):
    class Other(StandIn):
        spec = EncoderSpec.from_json(SPEC.to_json().replace('"layer":"features"', '"layer":"layer4"'))

    expected = extract(pictures, tmp_path)[1]
    assert extract(pictures, tmp_path, Other())[0] == 11
    assert extract(pictures, tmp_path) == (0, expected)


def test_the_store_says_what_it_holds(pictures, tmp_path):
    extract(pictures, tmp_path)
    (path,) = tmp_path.glob("store/*/spec.json")
    assert json.loads(path.read_text()) == {"engine": "none", "spec": json.loads(SPEC.to_json())}


def test_zeros_in_a_digest_are_part_of_it(tmp_path):
    digests = [f"{place:02x}" * 31 + "00" for place in range(3)] + [
        "00" * 32,
        "ab" + "00" * 30 + "cd",
        "ab" + "00" * 31,
    ]
    keys = keys_of([*digests, *digests[::-1]])
    distinct = first_occurrences(keys)
    assert [distinct[n : n + 1].tobytes().hex() for n in range(len(distinct))] == list(dict.fromkeys(digests))
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    with store.locked():
        writer = store.new_segment(distinct[::2])
        writer.add(range(len(distinct[::2])), np.zeros((len(distinct[::2]), 4, 48), np.float16))
        writer.flush()
        writer.close()
        store.refresh()
        assert store.holds(distinct).tolist() == [number % 2 == 0 for number in range(len(distinct))]
        assert store.keys().tobytes() == distinct[::2].tobytes()


def test_the_newest_row_of_a_picture_counts(tmp_path):
    store = FeatureStore(tmp_path, SPEC, "none", (4, 48))
    keys = keys_of(["aa" * 32, "bb" * 32])
    with store.locked():
        for value, some in ((1, keys), (2, keys[1:])):
            writer = store.new_segment(some)
            writer.add(range(len(some)), np.full((len(some), 4, 48), value, np.float16))
            writer.flush()
            writer.close()
        store.refresh()
        rows = np.empty((2, 4, 48), np.float16)
        assert not len(store.read(keys, rows)[1])
        assert rows[:, 0, 0].tolist() == [1, 2]
        assert len(store.keys()) == 2
        store.forget(keys[1:])
        assert store.holds(keys).tolist() == [True, False]


def test_a_further_picture_costs_some_dozens_of_bytes(tmp_path):
    (one,) = draw(tmp_path / "pictures", 1)

    class ListedImages:
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            return (Picture(f"{number:09d}.png", one.path, one.sha256) for number in range(self.count))

    def peak(count):
        tracemalloc.start()
        extract_features(ListedImages(count), StandIn(), tmp_path / "f.h5", store=tmp_path / "s", batch_size=3, workers=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(20_000), peak(60_000)
    assert (large - small) / 40_000 < 200  # objects for id, path and digest would be a kilobyte
