"""Properties of the readers that hold for every dataset, checked with generated ones."""

import csv
import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path

from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from reading import kept, read, write

from pipeline.datasets.entries import SPLITS, CaptionEntry, make_entry

ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
# What a line of an unquoted format can hold.
ONE_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"), max_size=40)
WORDS = st.sampled_from(
    ["a dog", "NA", "0012", "na\u00efve", "\u4e00\u53ea\u72d7", '"', "'s", ",", "x|y", "\u2028", "\U0001f415"]
)
CAPTIONS = st.one_of(ANY_TEXT, st.lists(WORDS, min_size=1, max_size=5).map(" ".join))
LINES = st.one_of(ONE_LINE, st.lists(WORDS, min_size=1, max_size=5).map(" ".join))
NAMES = st.integers(0, 9).map(lambda number: f"{number}.jpg")
DATASETS = st.lists(st.tuples(NAMES, CAPTIONS), min_size=1, max_size=12)
LINE_DATASETS = st.lists(st.tuples(NAMES, LINES), min_size=1, max_size=12)
QUOTE = chr(34)


def expected(dataset):
    """The captions that `make_entry` keeps."""
    entries = [make_entry(image, caption, None, "f", 0) for image, caption in dataset]
    return [(entry.image, entry.caption) for entry in entries if isinstance(entry, CaptionEntry)]


def read_text(format, name, text):
    with tempfile.TemporaryDirectory() as folder:
        return read(format, write(Path(folder), text, name))


def check_round_trip(format, name, text, dataset):
    entries = read_text(format, name, text)
    assert [(image, caption) for image, caption, _ in kept(entries)] == expected(dataset)
    assert len(entries.captions) + len(entries.skipped) == len(dataset)
    assert all(row.caption == " ".join(row.caption.split()) != "" for row in entries.captions)
    assert all(unicodedata.is_normalized("NFC", row.caption) for row in entries.captions)


@given(dataset=DATASETS, delimiter=st.sampled_from(",\t;|"), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_quoted_table_round_trips(dataset, delimiter, end):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("image", "caption"), *dataset])
    check_round_trip("table", "c.csv", text.getvalue(), dataset)


@given(dataset=LINE_DATASETS)
def test_an_unquoted_table_round_trips(dataset):
    dataset = [(image, caption.replace('"', "'")) for image, caption in dataset]
    text = "image,caption\n" + "".join(f"{image},{caption}\n" for image, caption in dataset)
    check_round_trip("table", "c.csv", text, dataset)


@given(
    starts=st.lists(st.sampled_from(['"', "", '""', '"x" ', "'"]), min_size=1, max_size=8),
    ends=st.data(),
    suffix=st.sampled_from([".jpg", ""]),
)
def test_a_stray_quote_never_hides_a_row(starts, ends, suffix):
    rows = [f"{start}word{n}{ends.draw(st.sampled_from(['', QUOTE, ',x', ' y']))}" for n, start in enumerate(starts)]
    entries = read_text(
        "table", "c.csv", "image,caption\n" + "".join(f"{n}{suffix},{row}\n" for n, row in enumerate(rows))
    )
    kept_text = " ".join(row.caption for row in entries.captions)
    reported = {one.image for one in entries.skipped}
    assert all(f"word{n}" in kept_text or f"{n}{suffix}" in reported for n in range(len(rows)))


@given(dataset=DATASETS)
def test_json_lines_round_trip(dataset):
    rows = [{"image": image, "caption": caption} for image, caption in dataset]
    check_round_trip("table", "c.jsonl", "\n".join(map(json.dumps, rows)), dataset)
    check_round_trip("table", "c.json", json.dumps(rows, ensure_ascii=False, indent=1), dataset)


@given(dataset=LINE_DATASETS)
def test_token_lines_round_trip(dataset):
    text = "0.jpg#0\tthe first\n" + "".join(f"{image}#1\t{caption}\n" for image, caption in dataset)
    check_round_trip("flickr8k", "Flickr8k.token.txt", text, [("0.jpg", "the first"), *dataset])


@given(dataset=LINE_DATASETS)
def test_flickr30k_lines_round_trip(dataset):
    text = "image_name| comment_number| comment\n" + "".join(f"{image}| 0| {caption}\n" for image, caption in dataset)
    check_round_trip("flickr30k", "results.csv", text, dataset)


@given(dataset=DATASETS, annotations_first=st.booleans())
def test_coco_round_trips(dataset, annotations_first):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(10)]
    annotations = [{"image_id": int(image[0]), "caption": caption} for image, caption in dataset]
    content = {"images": images, "annotations": annotations}
    if annotations_first:
        content = dict(reversed(content.items()))
    check_round_trip("coco", "captions.json", json.dumps(content), dataset)


@given(dataset=DATASETS, split=st.sampled_from([*SPLITS, "restval"]))
def test_karpathy_round_trips(dataset, split):
    images = [{"filename": image, "split": split, "sentences": [{"raw": caption}]} for image, caption in dataset]
    check_round_trip("karpathy", "dataset_x.json", json.dumps({"images": images}), dataset)


@given(lines=st.lists(LINES, min_size=1, max_size=5))
def test_texts_beside_images_round_trip(lines):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), b"image", "a.jpg")
        write(Path(folder), "\n".join(lines), "a.txt")
        entries = read("folder", Path(folder))
    assert [caption for _, caption, _ in kept(entries)] == [one for _, one in expected([("a.jpg", x) for x in lines])]


@given(name=st.one_of(st.text(max_size=30), st.text(st.sampled_from("./\\:a~%2e\u2025\uff0e\uff0f"), max_size=12)))
def test_no_name_leads_outside_the_folder(name):
    row = make_entry(name, "a dog", None, "f", 1)
    if isinstance(row, CaptionEntry):
        assert os.path.normpath(os.path.join("/images", row.image)).startswith("/images/")


def test_damaged_files_raise_nothing_but_our_errors():
    """`python tests/datasets/fuzz.py 600` runs longer."""
    tried, rows = fuzz(seconds=60, seed=20, most=300)
    assert (tried, rows > 1000) == (300, True)
