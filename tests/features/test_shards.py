"""A folder of shards reads like one file, and a shard that the index does not list is refused."""

import json
import mmap
import shutil
from dataclasses import replace

import numpy as np
import pytest
from stand_in import SPEC

from pipeline.errors import ArtefactError, CaptionerError, DataError
from pipeline.features import feature_file, shards
from pipeline.features.feature_file import FeatureFile, write_feature_file

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
    shards.write_index(path, write_shards(path))
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
    monkeypatch.setattr(shards, "open_shard", lambda path: opened.append(path.name) or open_shard(path))
    wanted = IMAGES[::2] + IMAGES[1::2]
    file = FeatureFile.open(folder)
    opened.clear()
    assert file.load(wanted).tobytes() == read(wanted).tobytes()
    assert opened == [f"{number:06d}.h5" for number in range(6)]


def test_a_shard_without_rows_is_allowed(tmp_path):
    write_feature_file(shards.shard_path(tmp_path, 0), SPEC, [], SHAPE, read)
    shards.write_index(tmp_path, 1)
    assert FeatureFile.open(tmp_path).images == ()


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
        (replace_by_other_images, r"not the shard that index\.json lists"),
        (replace_by_other_features, r"not the shard that index\.json lists"),
        (replace_by_other_encoder, r"not the shard that index\.json lists"),
        (flip_a_bit, "row of .* is damaged"),
    ],
)
def test_a_damaged_shard_is_named_with_the_remedy(folder, damage, message):
    damage(shards.shard_path(folder, 3), folder)
    with pytest.raises(ArtefactError, match=rf"000003\.h5: .*({message}).*run `captioner extract --engine ray` again"):
        FeatureFile.open(folder).load(IMAGES)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", {"schema": 99, "shards": ["a"]}, {"schema": 3}, {"schema": 3, "shards": []}],
)
def test_an_index_that_cannot_be_used_is_refused_by_name(folder, content):
    (folder / shards.INDEX).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ArtefactError, match=r"index\.json: not a readable index of shards: .*; run `captioner extract"):
        FeatureFile.open(folder)


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
