"""A folder of shards reads like one file, and a shard that the index does not list is refused."""

import json
import mmap
import shutil
from dataclasses import replace

import numpy as np
import pytest
from stand_in import SPEC

from pipeline.errors import ArtefactError, CaptionerError, DataError, ParamsError
from pipeline.features import feature_file, shards
from pipeline.features.feature_file import FeatureFile, write_feature_file

pq = pytest.importorskip("pyarrow.parquet", reason="a folder of shards needs the extra `ray`")

SHAPE = (4, 6)
IMAGES = [f"{number % 5}/é{number:03d}.jpg" for number in range(23)]


def row(image):
    return np.random.default_rng(list(image.encode())).random(SHAPE).astype(np.float16)


def read(images):
    return np.stack([row(image) for image in images])


def write_shards(folder, images=IMAGES, size=4, spec=SPEC):
    for number, start in enumerate(range(0, len(images), size)):
        write_feature_file(shards.shard_path(folder, number), spec, images[start : start + size], SHAPE, read)
    return -(-len(images) // size)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "features.h5"
    shards.write_index(path, SPEC, SHAPE, write_shards(path))
    return path


@pytest.fixture
def file(tmp_path):
    write_feature_file(tmp_path / "one.h5", SPEC, IMAGES, SHAPE, read)
    return tmp_path / "one.h5"


def test_a_folder_reads_like_one_file(folder, file):
    many, one = FeatureFile.open(folder), FeatureFile.open(file)
    assert many.digest() == one.digest()
    assert (many.spec, many.images, many.regions, many.channels) == (one.spec, one.images, 4, 6)
    wanted = [IMAGES[number] for number in np.random.default_rng(0).permutation(len(IMAGES))] + IMAGES[:2]
    assert many.load(wanted).tobytes() == one.load(wanted).tobytes()
    rows = np.array([22, 0, 7])
    assert many.read(rows).tobytes() == one.read(rows).tobytes()
    assert many.load([]).shape == (0, 4, 6)


def test_features_are_memory_mapped(folder):
    memory = FeatureFile.open(folder).features[0]
    while isinstance(memory, np.ndarray):
        memory = memory.base
    assert isinstance(memory.obj, mmap.mmap)


def test_few_shards_are_open_and_each_is_opened_once(folder, monkeypatch):
    opened = []
    open_shard = shards.open_shard
    monkeypatch.setattr(shards, "OPEN_SHARDS", 1)
    monkeypatch.setattr(feature_file, "PREFETCHED_ROWS", 1)
    monkeypatch.setattr(shards, "open_shard", lambda path, spec: opened.append(path.name) or open_shard(path, spec))
    wanted = IMAGES[::2] + IMAGES[1::2]
    assert FeatureFile.open(folder).load(wanted).tobytes() == read(wanted).tobytes()
    assert opened == [f"{number:06d}.h5" for number in range(6)]


def test_a_shard_without_rows_is_allowed(tmp_path):
    write_feature_file(shards.shard_path(tmp_path, 0), SPEC, [], SHAPE, read)
    shards.write_index(tmp_path, SPEC, SHAPE, 1)
    assert FeatureFile.open(tmp_path).images == ()


def test_an_image_without_features_is_named(folder):
    with pytest.raises(DataError, match=r"no features of new\.jpg"):
        FeatureFile.open(folder).load([IMAGES[0], "new.jpg"])


def test_a_folder_without_index_is_not_complete(folder):
    (folder / shards.INDEX).unlink()
    with pytest.raises(DataError, match="extraction is not complete"):
        FeatureFile.open(folder)


def lose(path, folder):
    path.unlink()


def truncate(path, folder):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_other_images(path, folder):
    write_shards(folder / "other", [image.replace("é", "ö") for image in IMAGES])
    shutil.copy(shards.shard_path(folder / "other", 3), path)


def replace_by_other_features(path, folder):
    write_feature_file(path, SPEC, IMAGES[12:16], SHAPE, lambda images: read(images) + np.float16(1))


def replace_by_other_encoder(path, folder):
    write_feature_file(path, replace(SPEC, precision="bfloat16"), IMAGES[12:16], SHAPE, read)


def flip_a_bit(path, folder):
    content = bytearray(path.read_bytes())
    content[content.index(row(IMAGES[13]).tobytes()) + 5] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose, "no such file"),
        (truncate, "truncated"),
        (replace_by_other_images, r"not the shard that index\.parquet lists"),
        (replace_by_other_features, r"not the shard that index\.parquet lists"),
        (replace_by_other_encoder, "another encoder .*precision"),
        (flip_a_bit, "row of .* is damaged"),
    ],
)
def test_a_damaged_shard_is_named_with_the_remedy(folder, damage, message):
    damage(shards.shard_path(folder, 3), folder)
    with pytest.raises(ArtefactError, match=rf"000003\.h5: .*({message}).*run `captioner extract --engine ray` again"):
        FeatureFile.open(folder).load(IMAGES)


def rewrite(folder, change):
    table = pq.ParquetFile(folder / shards.INDEX).read()
    content = json.loads(table.schema.metadata[b"captioner"])
    table = change(table, content)
    pq.write_table(table.replace_schema_metadata({b"captioner": json.dumps(content)}), folder / shards.INDEX)


def lose_a_shard(table, content):
    content["shards"] -= 1
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


def change_the_shape(table, content):
    content["shape"] = [2, 12]
    return table


@pytest.mark.parametrize(
    "change",
    [lose_a_shard, lose_a_row, shuffle, lose_a_column, lose_the_spec, become_another_schema, change_the_shape],
    ids=lambda change: change.__name__,
)
def test_a_changed_index_is_refused(folder, change):
    rewrite(folder, change)
    with pytest.raises(ArtefactError, match=r"index\.parquet"):
        FeatureFile.open(folder).load(IMAGES[1:])


def test_a_damaged_index_never_returns_other_features(folder):
    path = folder / shards.INDEX
    content = path.read_bytes()
    right = {image: row(image).tobytes() for image in IMAGES}
    flip = np.random.default_rng(7)
    for place in [int(flip.integers(len(content))) for _ in range(150)]:
        path.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << int(flip.integers(8)))]) + content[place + 1 :]
        )
        try:
            file = FeatureFile.open(folder)
            found = dict(zip(file.images, file.load(file.images), strict=True))
        except CaptionerError:
            continue
        assert {image: one.tobytes() for image, one in found.items()} == right, place


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParamsError, match=r"pip install -e '\.\[ray\]'"):
        FeatureFile.open(folder)
