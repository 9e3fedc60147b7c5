"""A folder of shards reads as one file does, and trusts no shard that is not the one that was indexed."""

import json
import shutil
import zlib

import numpy as np
import pytest
from stand_in import SPEC

from pipeline.errors import ArtefactError, CaptionerError, DataError, ParamsError
from pipeline.features import shards
from pipeline.features.feature_file import FeatureFile, write_feature_file

pytest.importorskip("pyarrow", reason="a folder of shards needs the extra `ray`")

SHAPE = (4, 6)
IMAGES = [f"{number % 5}/é{number:03d}.jpg" for number in range(23)]


def row(image):
    return np.random.default_rng(list(image.encode())).random(SHAPE).astype(np.float16)


def read(images, rows):
    rows[:] = np.stack([row(image) for image in images])
    return np.array([zlib.crc32(one.tobytes()) for one in rows], np.uint32)


def write_shards(folder, images=IMAGES, size=4, spec=SPEC):
    paths = []
    for number, start in enumerate(range(0, len(images), size)):
        paths.append(folder / "shards" / f"{number:06d}.h5")
        write_feature_file(paths[-1], spec, images[start : start + size], SHAPE, read)
    return paths


@pytest.fixture
def folder(tmp_path):
    paths = write_shards(tmp_path / "features.h5")
    assert shards.write_index(tmp_path / "features.h5", SPEC, SHAPE, paths) == len(IMAGES)
    return tmp_path / "features.h5"


@pytest.fixture
def file(tmp_path):
    write_feature_file(tmp_path / "one.h5", SPEC, IMAGES, SHAPE, read)
    return tmp_path / "one.h5"


def test_a_folder_reads_as_one_file_does(folder, file):
    many, one = FeatureFile.open(folder), FeatureFile.open(file)
    assert many.digest() == one.digest()
    assert (many.spec, many.images, many.regions, many.channels) == (one.spec, one.images, 4, 6)
    wanted = [IMAGES[number] for number in np.random.default_rng(0).permutation(len(IMAGES))] + IMAGES[:2]
    assert many.load(wanted).tobytes() == one.load(wanted).tobytes()
    assert many.load([]).shape == (0, 4, 6)


def test_rows_are_mapped_and_not_read_beforehand(folder):
    cache = FeatureFile.open(folder)
    rows = cache.features[0]
    while isinstance(rows.base, np.ndarray):
        rows = rows.base
    assert isinstance(rows, np.memmap) or type(rows.base).__name__ == "mmap"


def test_more_shards_than_may_be_open_are_read(folder, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN", 2)
    cache = FeatureFile.open(folder)
    assert cache.load(IMAGES[::-1]).tobytes() == np.stack([row(image) for image in IMAGES[::-1]]).tobytes()
    assert len(cache.features._open) == 2


def test_each_shard_is_opened_once_for_many_pictures(folder, monkeypatch):
    opened = []
    whole = shards.open_shard
    monkeypatch.setattr(shards, "_OPEN", 1)
    monkeypatch.setattr(shards, "open_shard", lambda path, spec: opened.append(path.name) or whole(path, spec))
    FeatureFile.open(folder).load(IMAGES[::2] + IMAGES[1::2])
    assert sorted(opened) == sorted(set(opened))


def test_the_index_is_the_same_whatever_the_order_of_the_pictures_in_a_shard(folder, tmp_path):
    other = tmp_path / "other"
    paths = write_shards(other, [*IMAGES[:4][::-1], *IMAGES[4:]])
    shards.write_index(other, SPEC, SHAPE, paths)
    assert (other / shards.INDEX).read_bytes() == (folder / shards.INDEX).read_bytes()


def test_shards_without_rows_are_no_fault(tmp_path):
    write_feature_file(tmp_path / "shards/000000.h5", SPEC, [], SHAPE, read)
    shards.write_index(tmp_path, SPEC, SHAPE, [tmp_path / "shards/000000.h5"])
    assert FeatureFile.open(tmp_path).images == ()


def test_a_picture_without_features_is_named(folder):
    with pytest.raises(DataError, match=r"holds no features of new\.jpg"):
        FeatureFile.open(folder).load([IMAGES[0], "new.jpg"])


def test_a_missing_shard_is_named(folder):
    (folder / "shards/000002.h5").unlink()
    with pytest.raises(
        ArtefactError, match=r"000002\.h5: cannot be read: .*run `captioner extract --engine ray` again"
    ):
        FeatureFile.open(folder)


def test_a_truncated_shard_is_named(folder):
    path = folder / "shards/000001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"000001\.h5: .* bytes, .*truncated"):
        FeatureFile.open(folder)


def test_another_folder_s_shard_of_the_same_size_is_named(folder, tmp_path):
    others = write_shards(tmp_path / "other", [image.replace("é", "ö") for image in IMAGES])
    assert others[3].stat().st_size == (folder / "shards/000003.h5").stat().st_size
    shutil.copy(others[3], folder / "shards/000003.h5")
    cache = FeatureFile.open(folder)
    with pytest.raises(ArtefactError, match=r"000003\.h5: not the shard that index\.parquet lists"):
        cache.load(IMAGES)


def test_another_encoder_s_shard_is_named(folder):
    from dataclasses import replace

    write_feature_file(folder / "shards/000003.h5", replace(SPEC, precision="float64"), IMAGES[12:16], SHAPE, read)
    with pytest.raises(ArtefactError, match=r"000003\.h5: .*(another encoder|bytes)"):
        FeatureFile.open(folder).load(IMAGES)


def test_a_flipped_bit_is_found_in_its_shard(folder):
    path = folder / "shards/000000.h5"
    content = bytearray(path.read_bytes())
    at = content.index(row(sorted(IMAGES[:4])[0]).tobytes())
    content[at + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"000000\.h5: the row of .* is damaged; delete this shard"):
        FeatureFile.open(folder).load(IMAGES)


def test_a_folder_whose_extraction_has_not_ended_is_refused(folder):
    (folder / shards.INDEX).unlink()
    with pytest.raises(DataError, match=r"has no index\.parquet"):
        FeatureFile.open(folder)


def test_an_index_cannot_be_made_with_a_truncated_shard(folder):
    path = folder / "shards/000004.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"000004\.h5"):
        shards.write_index(folder, SPEC, SHAPE, sorted((folder / "shards").glob("*.h5")))


def rewritten(folder, change):
    import pyarrow.parquet as pq

    table = pq.ParquetFile(folder / shards.INDEX).read()
    content = json.loads(table.schema.metadata[b"captioner"])
    table = change(table, content)
    pq.write_table(table.replace_schema_metadata({b"captioner": json.dumps(content)}), folder / shards.INDEX)


def point_outside(table, content):
    content["shards"][0]["file"] = "../other/000000.h5"
    return table


def lose_a_shard(table, content):
    del content["shards"][-1]
    return table


def lose_a_row(table, content):
    return table.slice(1)


def shuffle(table, content):
    return table.take(list(range(table.num_rows))[::-1])


def lose_a_column(table, content):
    return table.drop_columns(["crc32"])


def lose_the_spec(table, content):
    del content["spec"]
    return table


def become_another_schema(table, content):
    content["schema"] = 99
    return table


@pytest.mark.parametrize(
    "change",
    [point_outside, lose_a_shard, lose_a_row, shuffle, lose_a_column, lose_the_spec, become_another_schema],
    ids=lambda change: change.__name__,
)
def test_an_index_that_was_changed_is_refused_by_name(folder, change):
    rewritten(folder, change)
    with pytest.raises(ArtefactError, match=r"index\.parquet"):
        FeatureFile.open(folder)


def test_no_damage_of_the_index_gives_other_rows(folder):
    path = folder / shards.INDEX
    content = path.read_bytes()
    right = {image: row(image).tobytes() for image in IMAGES}
    flip = np.random.default_rng(7)
    for place in [int(flip.integers(len(content))) for _ in range(150)]:
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << int(flip.integers(8)))]) + content[place + 1 :]
        )
        try:
            cache = FeatureFile.open(folder)
            found = dict(zip(cache.images, cache.load(cache.images), strict=True))
        except CaptionerError:
            continue
        assert {image: one.tobytes() for image, one in found.items()} == right, place


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParamsError, match=r"pip install 'captioner\[ray\]'"):
        FeatureFile.open(folder)
