"""JSON of captions in the layouts that datasets have."""

import json

import pandas
import pytest
from reading import detect, kept, read, skipped, write

from pipeline.datasets.caption_files import read_reference_file
from pipeline.errors import DataError

LAYOUTS = {
    "captions by image": {"a.jpg": ["a dog", "a wet dog"], "b.jpg": ["a cat"]},
    "one caption by image": {"a.jpg": "a dog", "b.png": "a cat"},
    "objects by image": {"a.jpg": {"captions": ["a dog"], "split": "val"}, "b.jpg": {"captions": ["a cat"]}},
    "R2Gen": {
        "train": [{"id": "1", "report": "no effusion", "image_path": ["1/0.png", "1/1.png"], "split": "train"}],
        "val": [{"id": "2", "report": "clear lungs", "image_path": ["2/0.png"]}],
    },
    "TextCaps": {
        "dataset_name": "textcaps",
        "data": [{"image_id": "0c", "image_name": "0c", "set_name": "val", "caption_id": 3, "caption_str": "a sign"}],
    },
    "a list beside a description": {
        "file": "made.py",
        "description": "x",
        "data": [{"image": "a.jpg", "text": "a dog"}],
    },
    "LLaVA": [
        {
            "id": "7",
            "image": "7.jpg",
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a red bus"}],
        }
    ],
    "annotations alone": {"info": {}, "annotations": [{"image_id": 9, "caption": "a bear"}]},
}
EXPECTED = {
    "captions by image": [("a.jpg", "a dog", None), ("a.jpg", "a wet dog", None), ("b.jpg", "a cat", None)],
    "one caption by image": [("a.jpg", "a dog", None), ("b.png", "a cat", None)],
    "objects by image": [("a.jpg", "a dog", "val"), ("b.jpg", "a cat", None)],
    "R2Gen": [
        ("1/0.png", "no effusion", "train"),
        ("1/1.png", "no effusion", "train"),
        ("2/0.png", "clear lungs", "val"),
    ],
    "TextCaps": [("0c", "a sign", "val")],
    "a list beside a description": [("a.jpg", "a dog", None)],
    "LLaVA": [("7.jpg", "a red bus", None)],
    "annotations alone": [("9", "a bear", None)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_detected_and_read(tmp_path, layout):
    path = write(tmp_path, json.dumps(LAYOUTS[layout]), "odd name.json")
    found = detect(tmp_path)
    assert (found.format, found.captions) == ("table", path)
    entries = read("table", path)
    assert kept(entries) == EXPECTED[layout]
    assert not entries.skipped


def test_captions_by_names_without_suffix_are_detected_by_the_images(tmp_path):
    path = write(tmp_path, '{"left": "a dog", "right": "a cat"}', "odd name.json")
    with pytest.raises(
        DataError, match=r"odd name.json: no image is named like a key of this JSON; if it holds captions, name this"
    ):
        detect(tmp_path)
    assert detect(path).format == "table"  # the user named the file
    write(tmp_path, b"", "images/right.png")
    assert (detect(tmp_path).format, detect(tmp_path).captions) == ("table", path)
    assert kept(read("table", path)) == [("left", "a dog", None), ("right", "a cat", None)]


@pytest.mark.parametrize(
    "content",
    [
        {"name": "a package", "version": "1.0"},
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
        {"cells": [{"cell_type": "code"}]},
        {"train": [], "val": []},
        {"include": ["src"]},
        {"encoder": {"path": "a", "description": "a model"}},
        {},
        7,
    ],
)
def test_json_of_something_else_is_refused_by_name(tmp_path, content):
    write(tmp_path, json.dumps(content), "odd.json")
    with pytest.raises(DataError, match=r"no captions were recognized(?s:.*)odd.json"):
        detect(tmp_path)


def test_a_caption_may_be_an_object(tmp_path):
    """As coco-caption and `captioner predict --json` write them."""
    one = {"image": "a.jpg", "captions": [{"caption": "a dog", "score": -1}, {"caption": "a wet dog", "score": -2}]}
    captions = [("a.jpg", "a dog", None), ("a.jpg", "a wet dog", None)]
    assert kept(read("table", write(tmp_path, json.dumps(one), "a.jsonl"))) == captions
    assert kept(read("table", write(tmp_path, json.dumps(one), "a.json"))) == captions
    assert kept(read("table", write(tmp_path, json.dumps([one], indent=1), "a.jsonl"))) == captions
    assert kept(read("table", write(tmp_path, json.dumps({"a.jpg": one["captions"]}), "b.json"))) == captions


def test_a_conversation_of_several_answers_is_no_caption(tmp_path):
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a bus"}] * 2
    path = write(tmp_path, json.dumps([{"image": "a.jpg", "conversations": turns}]), "a.json")
    assert skipped(read("table", path)) == [(1, "a.jpg", "the caption is not text")]


def test_a_table_by_columns_is_read(tmp_path):
    """As pandas writes one with `to_dict("list")`."""
    columns = {"image": ["a.jpg", "b.jpg"], "caption": ["a dog", ["a cat", "a wet cat"]], "split": ["train", "val"]}
    path = write(tmp_path, json.dumps(columns), "a.json")
    assert detect(tmp_path).captions == path
    assert kept(read("table", path)) == [
        ("a.jpg", "a dog", "train"),
        ("b.jpg", "a cat", "val"),
        ("b.jpg", "a wet cat", "val"),
    ]
    named = write(tmp_path, json.dumps({"photo": ["a.jpg"], "words": ["a dog"]}), "b.json")
    assert kept(read("table", named, image_column="photo", caption_column="words")) == [("a.jpg", "a dog", None)]
    assert read_reference_file(path).captions["b.jpg"] == ("a cat", "a wet cat")


@pytest.mark.parametrize("orient", ["split", "columns", "index", "records", "table"])
def test_a_table_that_pandas_wrote_as_json_is_read(tmp_path, orient):
    table = pandas.DataFrame({"image": ["a.jpg", "b.jpg"], "caption": ["a dog", "a cat"]})
    path = write(tmp_path, table.to_json(orient=orient), "a.json")
    assert detect(tmp_path).captions == path
    assert kept(read("table", path)) == [("a.jpg", "a dog", None), ("b.jpg", "a cat", None)]
    assert read_reference_file(path).captions == {"a.jpg": ("a dog",), "b.jpg": ("a cat",)}


@pytest.mark.parametrize("lines", [False, True])
def test_keys_that_are_not_read_are_noted_once(tmp_path, lines):
    records = [{"image": f"{number}.jpg", "image_id": 7, "caption": "a dog", "text": "a cat"} for number in range(3)]
    content = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path = write(tmp_path, content, "a.jsonl" if lines else "a.json")
    note = f"{path}: the caption is read from key 'caption', not from key 'text'"
    assert read("table", path).notes == [note]


def test_columns_of_rows_in_another_order_are_joined_by_their_keys(tmp_path):
    content = {"image": {"0": "a.jpg", "1": "b.jpg"}, "caption": {"1": "a cat", "0": "a dog"}}
    assert kept(read("table", write(tmp_path, json.dumps(content), "a.json"))) == [
        ("a.jpg", "a dog", None),
        ("b.jpg", "a cat", None),
    ]
    content["caption"] = {"0": "a dog", "2": "a cat"}
    with pytest.raises(DataError, match="the columns 'image' and 'caption' have different rows: '1' is in one of them"):
        read("table", write(tmp_path, json.dumps(content), "a.json"))


def test_columns_of_unequal_lengths_are_refused(tmp_path):
    path = write(tmp_path, '{"image": ["a.jpg", "b.jpg"], "caption": ["a dog"]}', "a.json")
    message = "a.json: columns of unequal lengths: 'image' 2, 'caption' 1; correct the file"
    for reader in (lambda: read("table", path), lambda: read_reference_file(path), lambda: detect(tmp_path)):
        with pytest.raises(DataError, match=message):
            reader()


def test_an_image_without_captions_does_not_hide_the_others(tmp_path):
    path = write(tmp_path, json.dumps({"1": [{"caption": "a dog"}], "2": [{"caption": "a cat"}], "3": []}), "a.json")
    entries = read("table", path)
    assert kept(entries) == [("1", "a dog", None), ("2", "a cat", None)]
    assert skipped(entries) == [(3, "3", "the image has no caption")]


def test_a_record_with_an_empty_list_of_images_is_skipped(tmp_path):
    path = write(
        tmp_path, json.dumps([{"image": [], "caption": "a dog"}, {"image": "a.jpg", "caption": "a cat"}]), "a.json"
    )
    entries = read("table", path)
    assert kept(entries) == [("a.jpg", "a cat", None)]
    assert skipped(entries) == [(1, "", "the image name is not text")]


def test_of_very_many_json_files_the_first_are_tried(tmp_path):
    for number in range(130):
        write(tmp_path, json.dumps({"title": "my dog", "tags": "dog cat"}), f"{number:03}.json")
    with pytest.raises(
        DataError, match="30 more files of captions or of something else are not tried; name the file of"
    ):
        detect(tmp_path)
