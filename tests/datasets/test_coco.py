"""The formats `coco` and `karpathy`."""

import json

import pytest
from reading import detect, kept, read, skipped, write

from pipeline.datasets.image_root import find_image_root, likely_image_roots
from pipeline.errors import DataError


def coco(folder, name, images, annotations, **more):
    return write(folder, json.dumps({"info": {"a": [1]}, "images": images, "annotations": annotations, **more}), name)


def test_image_names_include_the_folder_and_val_becomes_the_test_split(tmp_path):
    images = [{"id": 7, "file_name": "7.jpg"}]
    coco(tmp_path, "captions_train2017.json", images, [{"image_id": 7, "caption": "A cat."}])
    annotations = [{"image_id": 7, "caption": "A dog.\n"}, {"image_id": 8, "caption": "x"}]
    annotations += [{"image_id": 7, "caption": ["a dog"]}]
    coco(tmp_path, "captions_val2017.json", images, annotations)
    entries = read("coco", tmp_path)
    assert kept(entries) == [("train2017/7.jpg", "A cat.", "train"), ("val2017/7.jpg", "A dog.", "test")]
    assert skipped(entries) == [
        (2, "", "image_id 8 is not the id of an image with a file_name"),
        (3, "", "the annotation has no image_id, or no caption that is text"),
    ]


def test_one_file_alone_has_no_splits(tmp_path):
    path = coco(tmp_path, "captions_val2014.json", [{"id": 1, "file_name": "1.jpg"}], [{"image_id": 1, "caption": "x"}])
    assert kept(read("coco", path)) == [("val2014/1.jpg", "x", None)]


@pytest.mark.parametrize("name", ["my_training.json", "ann_train.json", "train.json"])
@pytest.mark.parametrize("folder", ["images", "train"])
def test_images_may_lie_outside_the_folder_that_the_file_is_named_after(tmp_path, name, folder):
    path = coco(tmp_path, name, [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}])
    write(tmp_path, b"image", f"{folder}/a.jpg")
    names = [image for image, _, _ in kept(read("coco", path))]
    assert find_image_root(likely_image_roots(path, tmp_path, names), names).found == 1


def test_annotations_may_precede_the_images(tmp_path):
    content = {"annotations": [{"image_id": 1, "caption": "x"}], "images": [{"id": 1, "file_name": "1.jpg"}]}
    path = write(tmp_path, json.dumps(content), "captions.json")
    assert kept(read("coco", path)) == [("1.jpg", "x", None)]


def test_ids_may_be_whole_floats(tmp_path):
    images = [{"id": 1.0, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    path = coco(tmp_path, "captions.json", images, [{"image_id": n, "caption": "x"} for n in (1, 2.0, 2.5)])
    entries = read("coco", path)
    assert kept(entries) == [("a.jpg", "x", None), ("b.jpg", "x", None)]
    assert entries.skipped[0].place.endswith("captions.json, entry 3")


def test_captions_of_an_id_with_two_file_names_are_skipped(tmp_path):
    images = [{"id": 1, "file_name": n} for n in ("a.jpg", "b.jpg", "a.jpg")] + [{"id": 2, "file_name": "c.jpg"}] * 2
    annotations = [{"id": 9, "image_id": 1, "caption": "x"}, {"id": 9, "image_id": 2, "caption": "y"}]
    entries = read("coco", coco(tmp_path, "captions.json", images, annotations))
    assert kept(entries) == [("c.jpg", "y", None)]
    assert skipped(entries) == [(1, "", "image_id 1 has two file names")]


def test_files_of_other_names_are_recognized_by_content(tmp_path):
    """VizWiz: train.json and val.json beside files without captions."""
    for part in ("train", "val"):
        images = [{"id": 1, "file_name": f"VizWiz_{part}_1.jpg"}]
        coco(tmp_path, f"annotations/{part}.json", images, [{"image_id": 1, "caption": "A can."}])
    coco(tmp_path, "annotations/boxes.json", [{"id": 1, "file_name": "x.jpg"}], [{"image_id": 1, "bbox": [1, 2, 3, 4]}])
    found = detect(tmp_path)
    assert (found.format, found.captions) == ("coco", tmp_path / "annotations")
    assert found.evidence == "train.json and val.json, COCO's images and annotations; in annotations/"
    assert kept(read("coco", found.captions)) == [
        ("train/VizWiz_train_1.jpg", "A can.", "train"),
        ("val/VizWiz_val_1.jpg", "A can.", "test"),
    ]


def test_val_stays_val_beside_a_test_file(tmp_path):
    for part in ("train", "val", "test"):
        coco(tmp_path, f"captions_{part}.json", [{"id": 1, "file_name": "1.jpg"}], [{"image_id": 1, "caption": "x"}])
    assert {split for _, _, split in kept(read("coco", tmp_path))} == {"train", "val", "test"}


def test_json_files_without_captions_are_named(tmp_path):
    path = coco(tmp_path, "annotations/boxes.json", [], [])
    with pytest.raises(DataError, match=rf"no captions were recognized(.|\n)*{path}: JSON without COCO's captions"):
        detect(tmp_path)


# Karpathy's splits


def test_karpathy_splits_where_restval_is_trained_on(tmp_path):
    images = [
        {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog."}, {}]},
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filename": "c.jpg", "split": "odd", "sentences": [{"raw": "x"}]},
        {"filename": "d.jpg", "split": "val", "sentences": []},
        {"split": "val", "sentences": []},
    ]
    write(tmp_path, json.dumps({"images": images, "dataset": "coco"}), "dataset_coco.json")
    entries = read("karpathy", tmp_path)
    assert kept(entries) == [
        ("val2014/a.jpg", "A dog.", "train"),
        ("b.jpg", "one", "test"),
        ("b.jpg", "two", "test"),
    ]
    assert skipped(entries) == [
        (1, "val2014/a.jpg", "the caption is not text"),
        (3, "c.jpg", "split must be one of train, val, test, got 'odd'"),
        (4, "d.jpg", "the image has no caption"),
        (5, "", "the image has no filename"),
    ]


def test_captions_that_the_file_marks_as_unfit_are_noted(tmp_path):
    annotations = [{"image_id": 1, "caption": f"caption {number}", "is_rejected": number < 2} for number in range(5)]
    annotations[4]["is_precanned"] = True
    path = write(
        tmp_path, json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}), "a.json"
    )
    entries = read("coco", path)
    assert len(entries.captions) == 5
    assert entries.notes == [
        f"{path}: 2 captions with the mark is_rejected are used; to leave such captions out, delete them from the file",
        f"{path}: 1 caption with the mark is_precanned is used; to leave such captions out, delete them from the file",
    ]


def test_a_numbered_file_beside_another_one_without_captions_is_read(tmp_path):
    write(tmp_path, '{"questions": []}', "train.json")
    path = coco(tmp_path, "train (1).json", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}])
    assert detect(tmp_path).captions == path


def test_a_second_download_is_not_read(tmp_path):
    for name in ("captions_train2017.json", "captions_val2017.json", "captions_val2017 (1).json"):
        coco(tmp_path, name, [{"id": 1, "file_name": f"{name[9:12]}.jpg"}], [{"image_id": 1, "caption": "x"}])
    entries = read("coco", tmp_path)
    assert [image for image, _, _ in kept(entries)] == ["train2017/tra.jpg", "val2017/val.jpg"]
    (note,) = entries.notes
    assert note.startswith(
        f"{tmp_path}/captions_val2017 (1).json: not read, as a second download of captions_val2017.json"
    )


@pytest.mark.parametrize(
    ("part", "split"),
    [("dev", "val"), ("validation", "val"), ("dev_val", "val"), ("val2017", "val")],
)
def test_a_split_is_a_whole_word_of_the_file_name(tmp_path, part, split):
    for name in (part, "train2017", "test"):
        image, annotation = {"id": 1, "file_name": f"{name}.jpg"}, {"image_id": 1, "caption": "x"}
        coco(tmp_path, f"captions_{name}.json", [image], [annotation])
    folder = part.split("_")[-1]
    assert (f"{folder}/{part}.jpg", "x", split) in kept(read("coco", tmp_path))


def test_the_images_of_restval_are_in_the_folder_val(tmp_path):
    for number, name in enumerate(("restval2014", "test2014")):
        image, annotation = {"id": number, "file_name": f"{name}.jpg"}, {"image_id": number, "caption": "x"}
        coco(tmp_path, f"captions_{name}.json", [image], [annotation])
    assert ("val2014/restval2014.jpg", "x", "train") in kept(read("coco", tmp_path))


@pytest.mark.parametrize("name", ["latest_fixed", "trainval2014", "minival2014"])
def test_a_file_without_a_split_beside_others_is_refused(tmp_path, name):
    for number, one in enumerate((name, "test2014")):
        coco(tmp_path, f"captions_{one}.json", [{"id": number, "file_name": "a.jpg"}], [])
    with pytest.raises(DataError, match=f"captions_{name}.json: no split in its name, but other files have one; name"):
        read("coco", tmp_path)
