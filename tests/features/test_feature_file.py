"""features.h5: the same bytes for the same pictures, and no trust in a damaged file."""

import zlib

import h5py
import numpy as np
import pytest
from stand_in import SPEC

from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, DiskError
from pipeline.features.feature_file import FeatureFile, write_feature_file

SHAPE = (4, 6)
IMAGES = ["b.jpg", "a.jpg", "z/é.jpg", "Z.jpg"]


def row(image):
    return np.random.default_rng(len(image) + ord(image[0])).random(SHAPE).astype(np.float16)


def read(images, rows):
    rows[:] = np.stack([row(image) for image in images])
    return np.array([zlib.crc32(one.tobytes()) for one in rows], np.uint32)


@pytest.fixture
def path(tmp_path):
    write_feature_file(tmp_path / "features.h5", SPEC, IMAGES, SHAPE, read)
    return tmp_path / "features.h5"


def test_rows_are_found_by_name(path):
    cache = FeatureFile.open(path)
    assert cache.spec == SPEC
    assert cache.images == ("Z.jpg", "a.jpg", "b.jpg", "z/é.jpg")
    assert cache.load(["b.jpg", "a.jpg"]).tobytes() == row("b.jpg").tobytes() + row("a.jpg").tobytes()


def test_anybody_can_read_it_with_h5py(path):
    with h5py.File(path) as file:
        assert file["features"].dtype == np.float16
        assert file["features"].chunks is None
        assert (file["features"][1] == row("a.jpg")).all()


def test_the_bytes_do_not_depend_on_the_order(path, tmp_path):
    write_feature_file(tmp_path / "other.h5", SPEC, reversed(IMAGES), SHAPE, read)
    assert (tmp_path / "other.h5").read_bytes() == path.read_bytes()


def test_a_picture_without_features_is_named(path):
    with pytest.raises(DataError, match=r"holds no features of new.jpg"):
        FeatureFile.open(path).load(["new.jpg"])


def test_a_flipped_bit_in_a_row_is_named(path):
    content = bytearray(path.read_bytes())
    place = content.index(row("b.jpg").tobytes())
    content[place + 5] ^= 1
    path.write_bytes(bytes(content))
    cache = FeatureFile.open(path)
    assert cache.load(["a.jpg"]).shape == (1, *SHAPE)
    with pytest.raises(ArtefactError, match=r"the row of b.jpg is damaged"):
        cache.load(["b.jpg"])


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 97):
        path.write_bytes(content[:length])
        with pytest.raises((ArtefactError, DataError)):
            FeatureFile.open(path).load(IMAGES)


def test_a_flipped_byte_anywhere_is_refused_or_harmless(path):
    content = path.read_bytes()
    expected = [row(image).tobytes() for image in IMAGES]
    for place in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            cache = FeatureFile.open(path)
            found = [part.tobytes() for part in cache.load(IMAGES)]
        except (ArtefactError, DataError):
            continue
        assert found == expected


def test_links_out_of_the_file_are_refused(path, tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["features"] = np.zeros((4, *SHAPE), np.float16)
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink("elsewhere.h5", "features")
    with pytest.raises(ArtefactError, match="no dataset 'features' of its own"):
        FeatureFile.open(path)


def test_storage_outside_the_file_is_refused(path, tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 4096)
    with h5py.File(path, "a") as file:
        del file["features"]
        outside = [(str(tmp_path / "secret"), 0, 4 * 24 * 2)]
        file.create_dataset("features", (4, *SHAPE), np.float16, external=outside)
    with pytest.raises(ArtefactError, match="not one contiguous dataset"):
        FeatureFile.open(path)


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "features.h5").write_text("hello")
    with pytest.raises(ArtefactError, match="not a readable features file"):
        FeatureFile.open(tmp_path / "features.h5")


def test_the_old_file_stays_when_writing_fails(path):
    before = path.read_bytes()

    def fails(images, rows):
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"features.h5: no space left: [0-9,]+ bytes are free; what stood there"):
        write_feature_file(path, SPEC, IMAGES, SHAPE, fails)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["features.h5"]


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / "features.h5").mkdir()
    with pytest.raises(DiskError, match="a folder stands where a file is to be written"):
        write_feature_file(tmp_path / "features.h5", SPEC, IMAGES, SHAPE, read)


def test_specs_that_differ_say_where():
    other = EncoderSpec.from_json(SPEC.to_json().replace('"grid":2', '"grid":7'))
    assert SPEC.differences(other) == ["grid: 2, 7"]
    assert other.digest != SPEC.digest


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("features", np.zeros((4, *SHAPE), np.float32), "float32 .*expected float16"),
        ("features", np.zeros((4, 24), np.float16), r"\(4, 24\), expected float16 \(N, R, C\)"),
        ("features", np.zeros((3, *SHAPE), np.float16), "3 rows, 4 checksums, 4 ids"),
        ("crc32", np.zeros(4, np.int64), "expected"),
        ("image", np.array([b"b", b"a", b"c", b"d"]), "the ids are not in order"),
        ("image", np.arange(4), "expected"),
    ],
)
def test_another_shape_or_type_is_refused(path, name, content, words):
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = content
    with pytest.raises(ArtefactError, match=words):
        FeatureFile.open(path)


def test_rows_that_are_not_numbers_are_refused(tmp_path):
    def broken(images, rows):
        rows[:] = np.nan
        return np.array([zlib.crc32(rows.tobytes())], np.uint32)

    write_feature_file(tmp_path / "features.h5", SPEC, ["a.jpg"], SHAPE, broken)
    with pytest.raises(ArtefactError, match=r"the row of a.jpg is not finite"):
        FeatureFile.open(tmp_path / "features.h5").load(["a.jpg"])


def test_a_shape_larger_than_the_file_is_refused_before_memory_is_asked_for(path):
    content = path.read_bytes()
    extent = b"".join(size.to_bytes(8, "little") for size in (4, *SHAPE))
    place = content.index(extent)
    larger = (2**40).to_bytes(8, "little") + extent[8:]
    path.write_bytes(content[:place] + larger + content[place + len(extent) :])
    with pytest.raises(ArtefactError):
        FeatureFile.open(path)


def test_an_empty_dataset_gives_an_empty_file(tmp_path):
    write_feature_file(tmp_path / "features.h5", SPEC, [], SHAPE, read)
    assert FeatureFile.open(tmp_path / "features.h5").images == ()
