"""What holds for every dataset, whatever is in it: readers against datasets that hypothesis makes up."""

import csv
import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from fuzz import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import kept, read, written

from pipeline.datasets.entries import SPLITS, Captions, Row, make_row
from pipeline.errors import DataError

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
PIECES = b'image,caption\n@a.jpg@b.jpg#0\t@,@"@\n@\r@\t@|@{@}@[@]@:@"images"@"annotations"@"id": 1@\xff@\0@\xe2\x80'
BYTES = st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(PIECES.split(b"@")), max_size=40).map(b"".join))
READERS = {
    "table": ("c.csv", "c.tsv", "c.jsonl", "c.json"),
    "flickr8k": ("captions.txt", "Flickr8k.token.txt"),
    "flickr30k": ("results.csv",),
    "coco": ("captions_val2017.json",),
    "karpathy": ("dataset_x.json",),
}


def holds(**strategies):
    """The test holds for everything that `strategies` give."""
    return lambda test: settings(deadline=None, max_examples=60)(given(**strategies)(test))


def expected(dataset):
    """Rows that `make_row` would keep, as the reader must give them."""
    rows = [make_row(image, caption, None, "f", 0) for image, caption in dataset]
    return [(row.image, row.caption) for row in rows if isinstance(row, Row)]


def read_text(format, name, text):
    with tempfile.TemporaryDirectory() as folder:
        return read(format, written(Path(folder), text, name))


def agrees(format, name, text, dataset):
    captions = read_text(format, name, text)
    assert [(image, caption) for image, caption, _ in kept(captions)] == expected(dataset)
    assert len(captions.rows) + len(captions.skipped) == len(dataset)
    assert all(row.caption == " ".join(row.caption.split()) != "" for row in captions.rows)
    assert all(unicodedata.is_normalized("NFC", row.caption) for row in captions.rows)


@holds(dataset=DATASETS, delimiter=st.sampled_from(",\t;|"), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_quoted_table_gives_back_what_was_written(dataset, delimiter, end):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("image", "caption"), *dataset])
    agrees("table", "c.csv", text.getvalue(), dataset)


@holds(dataset=LINE_DATASETS)
def test_a_table_without_quotes_gives_back_what_was_written(dataset):
    dataset = [(image, caption.replace('"', "'")) for image, caption in dataset]
    text = "image,caption\n" + "".join(f"{image},{caption}\n" for image, caption in dataset)
    agrees("table", "c.csv", text, dataset)


@holds(starts=st.lists(st.sampled_from(['"', "", '""', '"x" ', "'"]), min_size=1, max_size=8), ends=st.data())
def test_no_quote_however_stray_makes_a_row_vanish(starts, ends):
    rows = [f"{start}word{n}{ends.draw(st.sampled_from(['', QUOTE, ',x', ' y']))}" for n, start in enumerate(starts)]
    captions = read_text(
        "table", "c.csv", "image,caption\n" + "".join(f"{n}.jpg,{row}\n" for n, row in enumerate(rows))
    )
    said = " ".join(row.caption for row in captions.rows)
    reported = {one.image for one in captions.skipped}
    assert all(f"word{n}" in said or f"{n}.jpg" in reported for n in range(len(rows)))


@holds(dataset=DATASETS)
def test_json_lines_give_back_what_was_written(dataset):
    rows = [{"image": image, "caption": caption} for image, caption in dataset]
    agrees("table", "c.jsonl", "\n".join(map(json.dumps, rows)), dataset)
    agrees("table", "c.json", json.dumps(rows, ensure_ascii=False, indent=1), dataset)


@holds(dataset=LINE_DATASETS)
def test_token_lines_give_back_what_was_written(dataset):
    text = "0.jpg#0\tthe first\n" + "".join(f"{image}#1\t{caption}\n" for image, caption in dataset)
    agrees("flickr8k", "Flickr8k.token.txt", text, [("0.jpg", "the first"), *dataset])


@holds(dataset=LINE_DATASETS)
def test_flickr30k_lines_give_back_what_was_written(dataset):
    text = "image_name| comment_number| comment\n" + "".join(f"{image}| 0| {caption}\n" for image, caption in dataset)
    agrees("flickr30k", "results.csv", text, dataset)


@holds(dataset=DATASETS, annotations_first=st.booleans())
def test_coco_gives_back_what_was_written(dataset, annotations_first):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(10)]
    said = [{"image_id": int(image[0]), "caption": caption} for image, caption in dataset]
    content = {"images": images, "annotations": said}
    if annotations_first:
        content = dict(reversed(content.items()))
    agrees("coco", "captions.json", json.dumps(content), dataset)


@holds(dataset=DATASETS, split=st.sampled_from([*SPLITS, "restval"]))
def test_karpathy_gives_back_what_was_written(dataset, split):
    images = [{"filename": image, "split": split, "sentences": [{"raw": caption}]} for image, caption in dataset]
    agrees("karpathy", "dataset_x.json", json.dumps({"images": images}), dataset)


@holds(lines=st.lists(LINES, min_size=1, max_size=5))
def test_texts_beside_pictures_give_back_what_was_written(lines):
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), b"picture", "a.jpg")
        written(Path(folder), "\n".join(lines), "a.txt")
        captions = read("folder", Path(folder))
    assert [caption for _, caption, _ in kept(captions)] == [one for _, one in expected([("a.jpg", x) for x in lines])]


@pytest.mark.parametrize("format", READERS)
@holds(content=BYTES)
def test_any_bytes_are_read_or_refused(format, content):
    for name in READERS[format]:
        with tempfile.TemporaryDirectory() as folder:
            path = written(Path(folder), content, name)
            try:
                captions = read(format, path)
            except DataError as error:
                captions, said = Captions(), str(error)
                if not said.startswith(str(path)):
                    raise
        for row in captions.rows:
            (row.image + row.caption).encode()
            assert row.caption
            assert not row.image.startswith(("/", "../"))
        for one in captions.skipped:
            assert one.reason
            (one.image + one.file).encode()


@holds(name=st.one_of(st.text(max_size=30), st.text(st.sampled_from("./\\:a~%2e\u2025\uff0e\uff0f"), max_size=12)))
def test_no_name_leads_out_of_the_folder(name):
    row = make_row(name, "a dog", None, "f", 1)
    if isinstance(row, Row):
        assert os.path.normpath(os.path.join("/images", row.image)).startswith("/images/")


def test_a_short_fuzz_run_breaks_nothing():
    """`python tests/captions/fuzz.py 600` runs longer."""
    tried, rows = fuzz(seconds=60, seed=20, most=300)
    assert (tried, rows > 1000) == (300, True)
