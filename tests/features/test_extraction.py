"""The feature store: nothing is encoded twice, and nothing is lost in a crash."""

import numpy as np
import pytest
from conftest import small_encoder
from PIL import Image

from pipeline.features.extraction import extract_features
from pipeline.features.feature_file import FeatureFile
from pipeline.features.image_batches import Picture
from pipeline.files import sha256_of


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture
def pictures(tmp_path):
    made = []
    for number in range(11):
        path = tmp_path / f"{number:02d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(Picture(path.name, path, sha256_of(path)))
    return made


def run(pictures, encoder, tmp_path, store="store", batch_size=4, workers=2):
    out = tmp_path / "features.h5"
    result = extract_features(pictures, encoder, out, store=tmp_path / store, batch_size=batch_size, workers=workers)
    return result, out.read_bytes()


def test_a_second_run_encodes_nothing(pictures, encoder, tmp_path):
    first, content = run(pictures, encoder, tmp_path)
    second, again = run(pictures, encoder, tmp_path)
    assert (first.encoded, first.from_store) == (11, 0)
    assert (second.encoded, second.from_store) == (0, 11)
    assert content == again


def test_pictures_that_can_be_gone_through_once_are_refused(pictures, encoder, tmp_path):
    with pytest.raises(TypeError, match="give a list of them, not an iterator"):
        run((picture for picture in pictures), encoder, tmp_path)
    assert not (tmp_path / "features.h5").exists()


def test_only_new_pictures_are_encoded_and_the_bytes_do_not_tell(pictures, encoder, tmp_path):
    run(pictures[:7], encoder, tmp_path)
    grown, content = run(pictures, encoder, tmp_path)
    assert (grown.encoded, grown.from_store) == (4, 7)
    assert content == run(pictures, encoder, tmp_path, store="fresh")[1]


def test_renaming_and_removing_encode_nothing(pictures, encoder, tmp_path):
    run(pictures, encoder, tmp_path)
    renamed = [Picture(f"new/{one.image}", one.path, one.sha256) for one in pictures[3:]]
    assert run(renamed, encoder, tmp_path)[0].encoded == 0


def test_features_do_not_depend_on_order_batch_or_workers(pictures, encoder, tmp_path):
    contents = {
        run(pictures, encoder, tmp_path, "a", 1, 1)[1],
        run(pictures[::-1], encoder, tmp_path, "b", 5, 3)[1],
        run(pictures, encoder, tmp_path, "c", 64, 2)[1],
    }
    assert len(contents) == 1


def test_one_bad_picture_stops_nobody_and_moves_no_row(pictures, encoder, tmp_path):
    whole = dict(
        zip([one.image for one in pictures], _rows(run(pictures, encoder, tmp_path, "a"), tmp_path), strict=True)
    )
    pictures[4].path.write_bytes(b"not a picture")
    bad = Picture(pictures[4].image, pictures[4].path, sha256_of(pictures[4].path))
    result, _ = run([*pictures[:4], bad, *pictures[5:]], encoder, tmp_path, "b")
    assert list(result.unreadable) == ["04.png"]
    assert "not a picture" in result.unreadable["04.png"]
    cache = FeatureFile.open(tmp_path / "features.h5")
    assert "04.png" not in cache.images
    assert all(cache.load([image])[0].tobytes() == whole[image] for image in cache.images)


def _rows(ran, tmp_path):
    cache = FeatureFile.open(tmp_path / "features.h5")
    return [row.tobytes() for row in cache.load(cache.images)]


def test_a_picture_that_changed_since_it_was_hashed_is_refused(pictures, encoder, tmp_path):
    Image.new("RGB", (9, 9)).save(pictures[2].path)
    result, _ = run(pictures, encoder, tmp_path)
    assert "changed since" in result.unreadable["02.png"]


def test_a_damaged_store_repairs_itself(pictures, encoder, tmp_path):
    whole = run(pictures, encoder, tmp_path)[1]
    (segment,) = (tmp_path / "store").rglob("*.segment")
    content = bytearray(segment.read_bytes())
    content[-10] ^= 1
    segment.write_bytes(bytes(content))
    repaired, again = run(pictures, encoder, tmp_path)
    assert (repaired.encoded, again) == (1, whole)
    segment.write_bytes(bytes(content)[:5000])
    assert run(pictures, encoder, tmp_path)[1] == whole
