"""Features of other programs are read in their usual layouts and matched with the images."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import DataError, ParamsError
from pipeline.features.imported import ChannelsFirstError, match_ids, open_source, read_ids, regions_of

FEATURES = {name: np.full((2, 3), number, np.float32) for number, name in enumerate(("one", "two"), start=1)}
BOTH = np.stack(list(FEATURES.values()))


def folder_of_npz(folder):
    for name, values in FEATURES.items():
        np.savez(folder / f"{name}.npz", feat=values, boxes=np.zeros((2, 4)))
    return folder, None


def folder_of_npy(folder):
    for name, values in FEATURES.items():
        np.save(folder / f"{name}.npy", values)
    return folder, None


def hdf5_with_a_dataset_per_image(folder):
    with h5py.File(folder / "x.hdf5", "w") as file:
        for name, values in FEATURES.items():
            file[f"{name}_features"] = values
            file[f"{name}_boxes"] = np.zeros((2, 4))
    return folder / "x.hdf5", None


def hdf5_with_one_dataset(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = BOTH
        file["image_ids"] = list(FEATURES)
    return folder / "x.h5", None


def array_with_ids(folder):
    np.save(folder / "x.npy", BOTH)
    (folder / "ids.json").write_text(json.dumps(list(FEATURES)))
    return folder / "x.npy", folder / "ids.json"


@pytest.mark.parametrize(
    "layout", [folder_of_npz, folder_of_npy, hdf5_with_a_dataset_per_image, hdf5_with_one_dataset, array_with_ids]
)
def test_each_layout_gives_the_features_by_id(layout, tmp_path):
    path, ids = layout(tmp_path)
    source = open_source(path, ids=ids, key=None)
    assert sorted(source.places) == ["one", "two"]
    for name, values in FEATURES.items():
        assert np.array_equal(source.read(name), values)


def test_an_hdf5_file_may_count_the_regions_of_each_image(tmp_path):
    path, _ = hdf5_with_one_dataset(tmp_path)
    with h5py.File(path, "a") as file:
        file["num_boxes"] = [1, 2]
    source = open_source(path, ids=None, key=None)
    assert [len(source.read(name)) for name in FEATURES] == [1, 2]


def test_the_numbers_of_regions_may_be_a_column(tmp_path):
    path, _ = hdf5_with_one_dataset(tmp_path)
    with h5py.File(path, "a") as file:
        file["num_boxes"] = [[1], [2]]
    source = open_source(path, ids=None, key=None)
    assert [len(source.read(name)) for name in FEATURES] == [1, 2]


@pytest.mark.parametrize("counts", [[1, 9], [1]])
def test_numbers_of_regions_that_do_not_fit_are_refused(tmp_path, counts):
    path, _ = hdf5_with_one_dataset(tmp_path)
    with h5py.File(path, "a") as file:
        file["num_boxes"] = counts
    with pytest.raises(DataError, match=r"the dataset num_boxes does not fit the features \("):
        open_source(path, ids=None, key=None)


def test_an_hdf5_file_may_have_a_group_for_each_image(tmp_path):
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for name, values in FEATURES.items():
            file[f"{name}/features"], file[f"{name}/boxes"] = values, np.zeros((2, 4))
    source = open_source(tmp_path / "groups.h5", ids=None, key=None)
    assert sorted(source.places) == ["one", "two"]
    assert np.array_equal(source.read("one"), FEATURES["one"])


@pytest.mark.parametrize(
    ("datasets", "key"),
    [
        ({"features": BOTH}, None),
        ({"features": BOTH, "boxes": np.zeros((2, 2))}, None),
        ({"pooled": BOTH[:, 0]}, None),
        ({"grid": BOTH, "other": BOTH}, "grid"),
    ],
)
def test_an_hdf5_file_without_ids_takes_them_from_a_file(datasets, key, tmp_path):
    path, ids = tmp_path / "x.h5", tmp_path / "ids.txt"
    ids.write_text("one\ntwo\n")
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    features = datasets[key or next(iter(datasets))]
    source = open_source(path, ids=ids, key=key)
    assert [source.read(name).tolist() for name in FEATURES] == features.tolist()
    with pytest.raises(DataError, match=r"x\.h5: has no dataset of ids \(ids, .*; add one, or .* with --ids"):
        open_source(path, ids=None, key=key)


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def test_the_dataset_of_an_hdf5_file_is_not_chosen_by_its_shape(tmp_path):
    path = hdf5(tmp_path / "x.h5", ids=list(FEATURES), fc=BOTH[:, 0], boxes=np.zeros((2, 2, 4)))
    with pytest.raises(DataError, match="which of the datasets boxes, fc, ids holds the features"):
        open_source(path, ids=None, key=None)
    assert open_source(path, ids=None, key="fc").read("two").tolist() == [2, 2, 2]
    path = hdf5(tmp_path / "y.h5", ids=list(FEATURES), features=BOTH, boxes=np.zeros((2, 2, 4)))
    assert open_source(path, ids=None, key=None).read("two").tolist() == FEATURES["two"].tolist()


def test_two_lists_of_ids_in_an_hdf5_file_must_agree(tmp_path):
    path = hdf5(tmp_path / "x.h5", ids=[0, 1], image_ids=list(FEATURES), features=BOTH)
    with pytest.raises(DataError, match="its datasets ids and image_ids name the rows differently; rename the wrong"):
        open_source(path, ids=None, key=None)
    path = hdf5(tmp_path / "y.h5", ids=list(FEATURES), image_ids=list(FEATURES), images=BOTH, features=BOTH)
    assert sorted(open_source(path, ids=None, key=None).places) == sorted(FEATURES)


@pytest.mark.parametrize("layout", [folder_of_npy, array_with_ids])
def test_a_second_array_in_an_npy_file_is_not_dropped(layout, tmp_path):
    path, ids = layout(tmp_path)
    with (path if path.is_file() else path / "one.npy").open("ab") as file:
        np.save(file, BOTH)
    with pytest.raises(DataError, match=r"bytes after the array.*a file of its own"):
        open_source(path, ids=ids, key=None).read("one")


def test_the_array_of_an_npz_file_can_be_named(tmp_path):
    np.savez(tmp_path / "one.npz", pooled=np.ones(3), grid=np.zeros((2, 3)))
    assert open_source(tmp_path, ids=None, key="pooled").read("one").shape == (3,)
    with pytest.raises(DataError, match="holds the arrays pooled, grid; name one of them with --key"):
        open_source(tmp_path, ids=None, key=None).read("one")
    with pytest.raises(DataError, match="holds the arrays pooled, grid; name one of them with --key"):
        open_source(tmp_path, ids=None, key="feat").read("one")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.txt", b"", "not a folder of"),
        ("x.npy", b"", "cannot be read: No data left in file"),
        ("x.h5", b"not HDF5", "cannot be read"),
        (None, None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_refused(name, content, problem, tmp_path):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        open_source(tmp_path / (name or "x"), ids=None, key=None)


@pytest.mark.parametrize("layout", [folder_of_npy, hdf5_with_a_dataset_per_image, array_with_ids])
def test_a_key_that_selects_nothing_is_refused(layout, tmp_path):
    path, ids = layout(tmp_path)
    with pytest.raises(DataError, match="--key"):
        open_source(path, ids=ids, key="features")


def test_a_folder_may_hold_npy_files_beside_the_npz_files_that_a_key_is_for(tmp_path):
    folder_of_npz(tmp_path)
    np.save(tmp_path / "three.npy", np.ones((2, 3)))
    source = open_source(tmp_path, ids=None, key="feat")
    assert sorted(source.places) == ["one", "three", "two"]
    assert source.read("three").shape == (2, 3)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "one.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read: not an array of numbers or text"):
        open_source(tmp_path, ids=None, key=None).read("one")


def test_a_dict_in_an_npy_file_is_named(tmp_path):
    np.save(tmp_path / "x.npy", {"one": np.ones((2, 3))}, allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects, such as a dict; save the array of each image in a file"):
        open_source(tmp_path / "x.npy", ids=None, key=None)


def test_a_damaged_row_of_an_hdf5_dataset_has_a_reason(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=BOTH, chunks=(1, 2, 3), fletcher32=True)
        file["ids"] = list(FEATURES)
    content = path.read_bytes()
    assert content.count(BOTH[1].tobytes()) == 1
    path.write_bytes(content.replace(BOTH[1].tobytes(), BOTH[0].tobytes()))
    source = open_source(path, ids=None, key=None)
    assert np.array_equal(source.read("one"), FEATURES["one"])
    with pytest.raises(DataError, match="cannot be read"):
        source.read("two")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("damaged", "features", "ids"),
    [
        ("x.npy", "x.npy", "ids.json"),
        ("x.h5", "x.h5", None),
        ("ids.txt", "x.npy", "ids.txt"),
        ("folder/one.npy", "folder", None),
    ],
)
def test_features_and_ids_of_another_type_are_reported_as_what_they_are(damaged, features, ids, tmp_path):
    array_with_ids(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / damaged).write_bytes(LFS)
    with pytest.raises(DataError, match="a Git LFS pointer, not the file itself; run `git lfs pull`"):
        open_source(tmp_path / features, ids=ids and tmp_path / ids, key=None).read("one")


def test_an_array_needs_one_id_per_row(tmp_path):
    path, ids = array_with_ids(tmp_path)
    for wrong, problem in ((["one"], "2 rows, but 1 id"), (["one", "one"], "1 of 2 ids occur twice")):
        ids.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=problem):
            open_source(path, ids=ids, key=None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.json", b'["one ", "two"]'),
        ("ids.txt", b"one\n two\n"),
        ("ids.npy", np.array(["one", "two"])),
        ("ids.npy", np.array([b"one", b"two"])),
    ],
)
def test_ids_are_read_as_text_or_bytes_without_spaces(name, content, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    assert read_ids(tmp_path / name) == ["one", "two"]


@pytest.mark.parametrize("content", [{"two": 1, "one": 0}, {"1": "two", "0": "one"}])
def test_an_object_of_ids_is_refused(content, tmp_path):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"ids\.json: needed is a list of the ids in the order of the rows, not \{"):
        read_ids(path)


@pytest.mark.parametrize("entry", [{"image": "one"}, ["one"], 1.5, None, True])
def test_an_id_that_is_no_text_or_integer_is_refused(entry, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps(["one", entry]))
    with pytest.raises(DataError, match=r"ids\.json: id 2 is .*; expected a text or an integer"):
        read_ids(tmp_path / "ids.json")


@pytest.mark.parametrize("key", ["a/dog.jpg", "a/dog", "dog.jpg", "dog", "/data/a/dog.jpg", "C:\\data\\a\\dog"])
def test_an_id_is_the_name_of_an_image_in_some_form(key):
    match = match_ids(["a/dog.jpg", "b/cat.jpg"], [key, "other"])
    assert match.found == {"a/dog.jpg": key}
    assert (match.missing, match.extra) == (["b/cat.jpg"], ["other"])


@pytest.mark.parametrize("key", ["dog.jpg", "b/a/dog", "a/dog.jpg", "x/c/b/a/dog.jpg"])
def test_an_id_may_have_fewer_or_more_folders_than_the_image(key):
    match = match_ids(["c/b/a/dog.jpg", "c/d/dog.jpg"], [key, "c/d/dog"])
    assert match.found == {"c/b/a/dog.jpg": key, "c/d/dog.jpg": "c/d/dog"}
    assert match_ids(["c/d/dog.jpg"], ["e/dog", "c/e/dog.jpg"]).missing == ["c/d/dog.jpg"]


@pytest.mark.parametrize("key", ["9", "000000000009", "COCO_val2014_000000000009"])
def test_an_id_may_be_the_number_at_the_end_of_a_name(key):
    image = "val2014/COCO_val2014_000000000009.jpg"
    assert match_ids([image], [key, "10"]).found == {image: key}


def test_features_of_two_images_are_refused():
    with pytest.raises(DataError, match=r"'dog' could belong to a/dog\.jpg and to b/dog\.jpg"):
        match_ids(["a/dog.jpg", "b/dog.jpg"], ["dog"])


@pytest.mark.parametrize("files", [("dog.npy", "dog.npz"), ("a/dog.npy", "a/dog.npz")])
def test_two_files_of_one_name_are_refused(files, tmp_path):
    (tmp_path / "a").mkdir()
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=rf"/{files[0]} and .*/{files[1]} hold the features of one image; keep one"):
        open_source(tmp_path, ids=None, key=None)


@pytest.mark.parametrize(
    "ids", [("a/dog_7", "a/dog_7.jpg"), ("dog_7", "dog_7.jpg"), ("7", "007")], ids=["path", "file name", "number"]
)
def test_two_features_of_one_image_are_refused(ids):
    with pytest.raises(DataError) as caught:
        match_ids(["a/dog_7.jpg"], ids)
    assert str(caught.value).startswith("features of 2 names belong to a/dog_7.jpg: ")
    assert all(repr(one) in str(caught.value) for one in ids)


def test_features_of_two_images_with_similar_names_are_told_apart():
    ids = {"a/dog.jpg": "a/dog.jpg", "dog.jpg": "dog", "dog_7.jpg": "dog_7", "7.jpg": "7"}
    assert match_ids(list(ids), list(ids.values())).found == ids


def test_vectors_and_grids_become_regions():
    assert regions_of(np.ones(3), None).shape == (1, 3)
    assert regions_of(np.ones((4, 5, 3)), 3).shape == (20, 3)


def test_channels_before_height_and_width_are_refused():
    for shape in ((8, 7, 7), (8, 1, 1)):
        with pytest.raises(ChannelsFirstError, match=r"looks like \(channels, height, width\); .* np\.moveaxis"):
            regions_of(np.ones(shape), None)
    for shape in ((7, 7, 8), (8, 7, 6), (7, 7, 7), (1, 7, 7), (8, 7)):
        assert regions_of(np.ones(shape), None).shape[1] == shape[-1]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.ones((2, 4)), "has 4 channels, the features before it have 3"),
        (np.array([[1, np.nan, 0]]), "not finite"),
        (np.array([[1, 1e6, 0]]), "float16's range"),
        (np.array([[1, -(2**31), 0]], np.int32), "float16's range"),  # has no absolute value in its type
        (np.zeros((2, 3)), "only zeros"),
        (np.full((2, 3), 2e-7), "no value above 2e-07, too small for float16"),
        (np.ones((0, 3)), "expected numbers"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_unusable_features_have_a_reason(values, problem):
    with pytest.raises(DataError, match=problem):
        regions_of(values, 3)


@pytest.mark.parametrize("layout", [folder_of_npz, folder_of_npy, hdf5_with_a_dataset_per_image, hdf5_with_one_dataset])
def test_ids_beside_features_that_have_ids_are_refused(layout, tmp_path):
    path, _ = layout(tmp_path)
    with pytest.raises(ParamsError, match=r"--ids ids\.txt: names the rows of one array; .* leave it out"):
        open_source(path, ids=Path("ids.txt"), key=None)
