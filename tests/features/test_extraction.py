"""Extraction: no image is encoded twice, and features.h5 does not depend on how it was made."""

import shutil

import pytest
from PIL import Image
from stand_in import extract, image_file
from support import small_encoder

from pipeline.errors import DiskError
from pipeline.features import extraction
from pipeline.features import store as stores
from pipeline.features.feature_file import FeatureFile
from pipeline.features.image_batches import ImageFile


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


def run(images, encoder, tmp_path, store="store", workers=2):
    return extract(images, tmp_path, encoder, store=tmp_path / store, workers=workers)


def test_a_second_run_encodes_nothing(images, encoder, tmp_path):
    first, content = run(images, encoder, tmp_path)
    second, again = run(images, encoder, tmp_path)
    assert (first.encoded, first.from_store) == (11, 0)
    assert (second.encoded, second.from_store) == (0, 11)
    assert content == again


def test_only_new_images_are_encoded_and_the_file_equals_a_fresh_one(images, encoder, tmp_path):
    run(images[:7], encoder, tmp_path)
    grown, content = run(images, encoder, tmp_path)
    assert (grown.encoded, grown.from_store) == (4, 7)
    assert content == run(images, encoder, tmp_path, store="fresh")[1]


def test_renaming_and_removing_images_encodes_nothing(images, encoder, tmp_path):
    run(images, encoder, tmp_path)
    renamed = [ImageFile(f"new/{one.image}", one.path, one.sha256) for one in images[3:]]
    assert run(renamed, encoder, tmp_path)[0].encoded == 0


def test_equal_images_are_encoded_once(images, encoder, tmp_path):
    copy = ImageFile("copy.png", images[0].path, images[0].sha256)
    result, _ = run([*images, copy], encoder, tmp_path)
    assert (result.images, result.encoded) == (12, 11)
    first, second = FeatureFile.open(tmp_path / "features.h5").load([images[0].image, "copy.png"])
    assert first.tobytes() == second.tobytes()


def test_features_do_not_depend_on_order_chunks_or_workers(images, encoder, tmp_path, monkeypatch):
    contents = {run(images, encoder, tmp_path, "a", 1)[1]}
    monkeypatch.setattr(extraction, "CHUNK_PIXELS", 1)
    contents |= {run(images[::-1], encoder, tmp_path, "b", 3)[1], run(images, encoder, tmp_path, "c", 2)[1]}
    assert len(contents) == 1


def test_an_unreadable_image_is_left_out_and_changes_no_other_row(images, encoder, tmp_path):
    whole = dict(zip([one.image for one in images], _rows(run(images, encoder, tmp_path, "a"), tmp_path), strict=True))
    images[4].path.write_bytes(b"not an image")
    bad = image_file(images[4].path)
    result, _ = run([*images[:4], bad, *images[5:]], encoder, tmp_path, "b")
    assert list(result.unreadable) == ["04.png"]
    assert "not an image" in result.unreadable["04.png"]
    file = FeatureFile.open(tmp_path / "features.h5")
    assert "04.png" not in file.images
    assert all(file.load([image])[0].tobytes() == whole[image] for image in file.images)


def _rows(ran, tmp_path):
    file = FeatureFile.open(tmp_path / "features.h5")
    return [row.tobytes() for row in file.load(file.images)]


def test_an_image_that_changed_since_prepare_is_refused(images, encoder, tmp_path):
    Image.new("RGB", (9, 9)).save(images[2].path)
    result, _ = run(images, encoder, tmp_path)
    assert "changed since" in result.unreadable["02.png"]


def test_of_equal_images_another_one_is_read_if_the_first_is_gone(images, encoder, tmp_path):
    copy = ImageFile("copy.png", tmp_path / "copy.png", images[0].sha256)
    shutil.copy(images[0].path, copy.path)
    images[0].path.unlink()
    result, _ = run([*images, copy], encoder, tmp_path)
    assert (result.unreadable, result.encoded) == ({}, 11)


def test_damaged_rows_of_the_store_are_encoded_again(images, encoder, tmp_path):
    whole = run(images, encoder, tmp_path)[1]
    (part,) = (tmp_path / "store").rglob("*.h5")
    content = bytearray(part.read_bytes())
    content[-10] ^= 1
    part.write_bytes(bytes(content))
    repaired, again = run(images, encoder, tmp_path)
    assert (repaired.encoded, again) == (1, whole)
    part.write_bytes(bytes(content)[:5000])
    assert run(images, encoder, tmp_path)[1] == whole


def test_a_part_that_cannot_be_read_back_loses_no_image(images, encoder, tmp_path, monkeypatch):
    write = stores.write_feature_file

    def damaged(path, *rest):
        write(path, *rest)
        path.write_bytes(path.read_bytes()[:5000])

    monkeypatch.setattr(stores, "write_feature_file", damaged)
    with pytest.raises(DiskError, match="rows read back differ from those written; check this disk"):
        run(images, encoder, tmp_path)
    monkeypatch.undo()
    assert run(images, encoder, tmp_path)[0].encoded == 11
