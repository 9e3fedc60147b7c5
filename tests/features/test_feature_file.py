"""features.h5: equal bytes for equal images, and an error for every damage."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from stand_in import SPEC

from pipeline.encoders.spec import imported_spec
from pipeline.errors import ArtefactError, DataError, DiskError
from pipeline.features.feature_file import FeatureFile, write_feature_file
from pipeline.features.feature_layout import DIGEST_BYTES, HDF5_SIGNATURE, HEADER_BYTES

SHAPE = (4, 6)
IMAGES = ["b.jpg", "a.jpg", "z/é.jpg", "Z.jpg"]


def row(image):
    return np.random.default_rng(len(image) + ord(image[0])).random(SHAPE).astype(np.float16)


def read(images):
    return np.stack([row(image) for image in images])


@pytest.fixture
def path(tmp_path):
    write_feature_file(tmp_path / "features.h5", SPEC, IMAGES, SHAPE, read)
    return tmp_path / "features.h5"


def test_features_are_loaded_by_image_id(path):
    file = FeatureFile.open(path)
    assert file.spec == SPEC
    assert file.images == ("Z.jpg", "a.jpg", "b.jpg", "z/é.jpg")
    assert file.load(["b.jpg", "a.jpg"]).tobytes() == row("b.jpg").tobytes() + row("a.jpg").tobytes()
    assert file.read(np.array([2, 0])).tobytes() == row("b.jpg").tobytes() + row("Z.jpg").tobytes()
    assert file.read(np.array([], np.int64)).shape == (0, *SHAPE)


def test_h5py_reads_the_file(path):
    with h5py.File(path) as file:
        assert file["features"].dtype == np.float16
        assert file["features"].chunks is None
        assert (file["features"][1] == row("a.jpg")).all()


def test_the_bytes_do_not_depend_on_the_order(path, tmp_path):
    write_feature_file(tmp_path / "other.h5", SPEC, reversed(IMAGES), SHAPE, read)
    assert (tmp_path / "other.h5").read_bytes() == path.read_bytes()


def test_an_image_without_features_is_named(path):
    with pytest.raises(DataError, match=r"contains no features of new.jpg"):
        FeatureFile.open(path).load(["new.jpg"])


def test_a_flipped_bit_in_a_row_is_named(path):
    content = bytearray(path.read_bytes())
    place = content.index(row("b.jpg").tobytes())
    content[place + 5] ^= 1
    path.write_bytes(bytes(content))
    file = FeatureFile.open(path)
    assert file.load(["a.jpg"]).shape == (1, *SHAPE)
    with pytest.raises(ArtefactError, match=r"the row of b.jpg is damaged"):
        file.load(["b.jpg"])


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
            file = FeatureFile.open(path)
            found = [part.tobytes() for part in file.load(IMAGES)]
        except (ArtefactError, DataError):
            continue
        assert found == expected


def test_an_edit_by_another_program_is_refused(path):
    with h5py.File(path, "a") as file:
        file.attrs["spec"] = SPEC.to_json().replace('"grid":2', '"grid":7')
    with pytest.raises(ArtefactError, match=r"features.h5: damaged: its spec, ids .*; run `dvc repro -f extract`"):
        FeatureFile.open(path)


def test_the_old_file_stays_when_writing_fails(path):
    before = path.read_bytes()

    def fails(images):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        DiskError,
        match=r"features.h5: cannot be written: no space left: [0-9,]+ bytes are free; the file that was there",
    ):
        write_feature_file(path, SPEC, IMAGES, SHAPE, fails)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["features.h5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 1}, r"not a features file of captioner's schema 2: schema: must be 2; run `dvc repro -f extract`"),
        ({"spec": SPEC.to_json().replace('"grid":2', '"grid":7')}, "damaged: its spec, ids and checksums do not match"),
        ({"shape": [3, *SHAPE]}, "damaged: its spec, ids and checksums do not match"),
        ({"shape": [2**40, *SHAPE]}, "truncated: .* bytes of at least"),
        ({"shape": [4, 24]}, "not a features file"),
        ({"shape": [4, 24, 1.0]}, "shape.2: must be a valid integer"),
        ({"shape": [4, 24, 0]}, "shape.2: must be greater"),
        ({"crc32": HEADER_BYTES - 1}, "crc32: must be greater"),
        ({"image": 2**70}, "image: must be less"),
        ({"features": True}, "features: must be a valid integer"),
        ({"more": 1}, "more: Unexpected"),
    ],
)
def test_another_header_is_refused(path, change, words):
    content = path.read_bytes()
    fields = json.loads(content[: HEADER_BYTES - DIGEST_BYTES]) | change
    header = json.dumps(fields, sort_keys=True).encode().ljust(HEADER_BYTES - DIGEST_BYTES)
    path.write_bytes(header + content[len(header) :])
    with pytest.raises(ArtefactError, match=words):
        FeatureFile.open(path)


@pytest.mark.parametrize("part", ["image", "crc32"])
def test_a_flipped_bit_in_an_id_or_a_checksum_is_refused(path, part):
    content = bytearray(path.read_bytes())
    content[json.loads(content[: HEADER_BYTES - DIGEST_BYTES])[part]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="damaged: its spec, ids and checksums do not match their sha256"):
        FeatureFile.open(path)


def test_opening_a_file_does_not_trust_its_hdf5_structures(path, monkeypatch):
    monkeypatch.setattr(h5py, "File", None)  # HDF5 may never return from a damaged structure
    assert FeatureFile.open(path).load(["a.jpg"]).tobytes() == row("a.jpg").tobytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "not a features file of captioner"),
        (
            HDF5_SIGNATURE,
            "another program; run `dvc repro -f extract` or, for imported features, run `captioner import-features`",
        ),
        (b"version https://git-lfs.github.com/spec/v1", r"a Git LFS pointer, not the file itself; run `git lfs pull`$"),
        (b"\x1f\x8b", "features.h5: compressed with gzip; unpack it with `gunzip < FILE > NEW`, or"),
    ],
)
def test_a_file_without_our_header_is_refused(tmp_path, content, words):
    (tmp_path / "features.h5").write_bytes(content)
    with pytest.raises(ArtefactError, match=words):
        FeatureFile.open(tmp_path / "features.h5")


def test_a_damaged_row_of_imported_features_is_not_extracted_again(tmp_path):
    path = tmp_path / "features.h5"
    write_feature_file(path, imported_spec("regions", SHAPE[1]), ["a.jpg"], SHAPE, read)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError) as caught:
        FeatureFile.open(path).load(["a.jpg"])
    remedy = "run `captioner import-features` again or `dvc checkout -f extract`"
    assert str(caught.value) == f"{path}: the row of a.jpg is damaged; {remedy}"


def test_a_spec_longer_than_the_header_is_refused(tmp_path):
    long = replace(SPEC, name="n" * 5000)
    with pytest.raises(DataError, match=r"the encoder spec is .* bytes long"):
        write_feature_file(tmp_path / "features.h5", long, IMAGES, SHAPE, read)


def test_a_spec_of_another_version_is_refused_with_the_path_and_a_remedy(tmp_path):
    path = tmp_path / "features.h5"
    write_feature_file(path, replace(SPEC, schema=2), IMAGES, SHAPE, read)
    with pytest.raises(
        ArtefactError, match=r"features.h5: the encoder spec has schema 2.*; run `dvc repro -f extract`"
    ):
        FeatureFile.open(path)


def test_equal_features_have_equal_digests(path, tmp_path):
    write_feature_file(tmp_path / "fewer.h5", SPEC, IMAGES[1:], SHAPE, read)
    write_feature_file(tmp_path / "same.h5", SPEC, IMAGES, SHAPE, read)
    digests = [FeatureFile.open(file).digest() for file in (path, tmp_path / "same.h5", tmp_path / "fewer.h5")]
    assert digests[0] == digests[1] != digests[2]


def test_an_empty_dataset_gives_an_empty_file(tmp_path):
    write_feature_file(tmp_path / "features.h5", SPEC, [], SHAPE, read)
    assert FeatureFile.open(tmp_path / "features.h5").images == ()
