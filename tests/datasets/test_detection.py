"""Detection of the dataset format."""

import os

import pytest
from reading import detect, kept, read, skipped, write
from support import ROOT

from pipeline.datasets.detection import Candidate, collect_entries, detect_format
from pipeline.datasets.entries import ReadOptions
from pipeline.datasets.registry import FORMATS
from pipeline.errors import DataError
from pipeline.progress import no_progress

LAYOUTS = {
    "flickr8k": {"captions.txt": "image,caption\na.jpg,x\n", "Images/a.jpg": "image"},
    "flickr8k token": {"Flickr8k.token.txt": "a.jpg#0\tx\n"},
    "flickr30k": {"results.csv": "image_name| comment_number| comment\na.jpg| 0| x\n"},
    "flickr30k token": {"results_20130124.token": "a.jpg#0\tx\n"},
    "coco": {
        "annotations/captions_val2017.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], '
        '"annotations": [{"image_id": 1, "caption": "x"}]}'
    },
    "karpathy": {
        "dataset_flickr8k.json": '{"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "x"}]}]}'
    },
    "table": {"my rows.tsv": "image\tcaption\na.jpg\tx\n"},
    "table csv": {"captions.csv": "image,caption\na.jpg,x\n", "notes.csv": "date,weather\n1,2\n"},
    "table jsonl": {"rows.jsonl": '{"image": "a.jpg", "caption": "x"}\n'},
    "folder": {"a.jpg": "image", "a.txt": "x"},
    "folder json": {"a.jpg": "image", "a.json": '{"file_name": "a.jpg", "caption": ["x"]}'},
    "folder metadata": {"metadata.csv": "file_name,text\na.jpg,x\n", "a.jpg": "image"},
}
"""Files of each format, with the caption `x` of `a.jpg`."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_detected_from_its_folder_and_its_file_and_read(tmp_path, layout):
    files = [write(tmp_path, text, name) for name, text in LAYOUTS[layout].items()]
    found = detect(tmp_path)
    assert found.format == layout.split()[0]
    assert found.evidence
    assert "not used" not in found.evidence
    if files[0].name != "a.jpg":
        assert detect(files[0]).format == found.format
    ((image, caption, _),) = kept(read(found.format, found.captions))
    assert (image.split("/")[-1], caption) == ("a.jpg", "x")


def test_of_two_captions_files_the_more_certain_one_is_used_and_the_other_named(tmp_path):
    write(tmp_path, '{"images": [{"sentences": []}]}', "dataset_flickr8k.json")
    write(tmp_path, "image,caption\na.jpg,x\n", "captions.txt")
    found = detect(tmp_path)
    assert found.format == "karpathy"
    assert "not used: captions.txt" in found.evidence


def test_a_list_beside_an_image_of_its_name_is_a_table(tmp_path):
    write(tmp_path, '[{"image": "a.jpg", "caption": "x"}]', "poster.json")
    write(tmp_path, "image", "poster.png")
    assert detect(tmp_path).captions == tmp_path / "poster.json"


def test_captions_by_image_beside_an_image_of_the_same_name_are_a_table(tmp_path):
    write(tmp_path, '{"a.jpg": "x"}', "poster.json")
    write(tmp_path, "image", "poster.png")
    assert detect(tmp_path).captions == tmp_path / "poster.json"


@pytest.mark.parametrize("name", ["a.jpg.json", "a.jpg.supplemental-metadata.json"])
def test_the_json_file_of_a_photo_is_not_proposed_as_captions(tmp_path, name):
    write(tmp_path, '{"title": "a.jpg", "url": "x"}', name)
    write(tmp_path, "image", "a.jpg")
    with pytest.raises(DataError, match="no captions were recognized") as error:
        detect(tmp_path)
    assert name not in str(error.value)


def test_an_unreadable_json_file_beside_an_image_does_not_hide_a_table(tmp_path):
    if not os.path.isfile("/proc/self/mem"):
        pytest.skip("needs a file that is readable by its mode and fails to be read")
    write(tmp_path, "image", "a.jpg")
    (tmp_path / "a.json").symlink_to("/proc/self/mem")
    path = write(tmp_path, "image,caption\na.jpg,x\n", "rows.csv")
    assert detect(tmp_path).captions == path
    with pytest.raises(DataError, match=r"a.json: cannot be read"):
        detect(tmp_path / "a.json")


def test_an_error_names_the_detected_format_where_it_is_another_one(tmp_path):
    path = write(tmp_path, "image,caption\na.jpg,x\n")
    with pytest.raises(DataError, match=r"not valid JSON .*; params.data.format is coco, but table is detected"):
        read("coco", path)
    with pytest.raises(DataError, match=r"\(auto: the usual names\)$"):
        read("table", write(tmp_path, "image,words\na.jpg,x\n", "others.csv"))


def test_a_file_without_captions_is_refused(tmp_path):
    dataset = detect(write(tmp_path, '{"images": [], "annotations": []}', "captions_val2017.json"))
    with pytest.raises(DataError, match=r"captions_val2017.json: holds no captions in the format coco; name another"):
        collect_entries(dataset, ReadOptions(), no_progress)


def test_a_word_and_a_number_each_are_no_columns(tmp_path):
    words = ", ".join(f'"word{number}": {number}' for number in range(2000))
    write(tmp_path, f"{{{words}}}", "counts.json")
    write(tmp_path, "image,caption\na.jpg,x\n", "mine.csv")
    assert detect(tmp_path).evidence == "mine.csv, a table"
    write(
        tmp_path, ",".join(["image", "caption", *map(str, range(2000))]) + "\na.jpg,x" + 2000 * ",1" + "\n", "mine.csv"
    )
    assert kept(read("table", tmp_path / "mine.csv")) == [("a.jpg", "x", None)]


@pytest.mark.parametrize(("name", "content"), [("test.tsv", ""), ("test.json", "["), ("captions_test.parquet", "PAR1")])
@pytest.mark.parametrize("tables", [("train.csv",), ("train.csv", "val.csv")])
def test_a_table_of_a_split_that_cannot_be_read_is_named(tmp_path, tables, name, content):
    for table in tables:
        write(tmp_path, "image,caption\na.jpg,x\n", table)
    write(tmp_path, content, name)
    write(tmp_path, "{}", "settings.json")
    evidence = detect(tmp_path).evidence
    assert f"; not read: {tmp_path / name}" in evidence
    assert "settings.json" not in evidence


@pytest.mark.parametrize("names", [("captions.csv", "captions_old.csv"), ("alpha.csv", "beta.csv")])
def test_a_second_table_is_named(tmp_path, names):
    for name in names:
        write(tmp_path, "image,caption\na.jpg,x\n", name)
    found = detect(tmp_path)
    assert found.captions == tmp_path / names[0]
    assert f"not used: {names[1]}" in found.evidence


def test_unknown_files_are_refused(tmp_path):
    write(tmp_path, "hello", "readme.md")
    with pytest.raises(DataError, match=r"no captions were recognized, .*karpathy: dataset_.* see docs/datasets.md"):
        detect(tmp_path)
    with pytest.raises(DataError, match=r"odd\.json, entry 1: the caption is not text"):
        detect(write(tmp_path, '{"a": 1}', "odd.json"))
    with pytest.raises(DataError, match="no such file or folder"):
        detect(tmp_path / "missing")


def test_a_table_without_the_columns_is_refused_with_its_header_and_the_params_to_set(tmp_path):
    message = (
        r"labels.csv, line 1: no column image and caption; the header is \['Photo', 'beschreibung'\]; rename them "
        r"or, for a dataset, name the columns with params.data.image_column and caption_column"
    )
    path = write(tmp_path, "Photo,beschreibung\na.jpg,ein Hund\n", "labels.csv")
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=message):
            detect(place)
        found = detect(place, image_column="photo", caption_column="beschreibung")
        assert (found.format, found.captions) == ("table", path)


def test_captions_txt_with_columns_from_the_params(tmp_path):
    path = write(tmp_path, "photo,beschreibung\na.jpg,ein Hund\n", "captions.txt")
    columns = {"image_column": "photo", "caption_column": "beschreibung"}
    assert kept(read(detect(path, **columns).format, path, **columns)) == [("a.jpg", "ein Hund", None)]


def test_the_encoding_applies_to_column_names(tmp_path):
    path = write(tmp_path, "bild,\u00fcberschrift\na.jpg,ein Hund\n", "labels.csv", encoding="cp1252")
    columns = {"image_column": "bild", "caption_column": "\u00fcberschrift"}
    with pytest.raises(DataError, match="no column \u00fcberschrift"):
        detect(path, **columns)
    assert detect(path, encoding="cp1252", **columns).format == "table"


def test_captions_one_folder_deeper_are_found(tmp_path):
    """Kaggle's archive of Flickr30k unpacks so."""
    path = write(tmp_path, LAYOUTS["flickr30k"]["results.csv"], "flickr30k_images/results.csv")
    write(tmp_path, b"image", "flickr30k_images/flickr30k_images/a.jpg")
    found = detect(tmp_path)
    assert (found.format, found.captions) == ("flickr30k", path)
    assert found.evidence == "results.csv, columns delimited by |; in flickr30k_images/"


def test_one_table_per_split_folder_is_refused(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, LAYOUTS["table csv"]["captions.csv"], f"{split}/captions.csv")
        write(tmp_path, b"image", f"{split}/a.jpg")
    with pytest.raises(DataError, match=r"captions are in train/, val/; join them in one table with a column split"):
        detect(tmp_path)
    (tmp_path / "val").rename(tmp_path / "other")
    assert detect(tmp_path).captions == tmp_path / "other/captions.csv"


def test_every_format_has_a_layout_here_and_a_page():
    assert {layout.split()[0] for layout in LAYOUTS} == set(FORMATS)
    assert {page.stem for page in (ROOT / "docs/datasets").iterdir()} == set(FORMATS)
    for name in FORMATS:
        assert f"(datasets/{name}.md)" in (ROOT / "docs/datasets.md").read_text()


def test_json_of_something_else_is_not_a_table(tmp_path):
    for name, content in (("shapes.json", '[{"shape": "red"}]'), ("log.jsonl", '{"event": 1}\n')):
        write(tmp_path, content, name)
    message = r"log.jsonl, line 1: no key image and caption(.|\n)*shapes.json, entry 1: no key"
    with pytest.raises(DataError, match=message):
        detect(tmp_path)
    write(tmp_path, "image,caption\na.jpg,x\n", "words.csv")
    assert detect(tmp_path).evidence == "words.csv, a table"


@pytest.mark.parametrize("beside", ["dvc.yaml", "captions.csv.dvc", None])
def test_a_missing_file_that_dvc_makes_names_the_command(tmp_path, beside):
    if beside:
        (tmp_path / beside).write_text("")
    remedy = ", or make it with `dvc repro` or `dvc pull`" if beside else ""
    with pytest.raises(DataError) as raised:
        detect_format(tmp_path / "captions.csv")
    assert str(raised.value).endswith(f"captions.csv: no such file or folder; check params.data.captions{remedy}")


def test_captions_of_markers_only_are_no_dataset(tmp_path):
    path = write(tmp_path, "image,caption\na.jpg,<s> . </s>\nb.jpg,<s> ! </s>", "captions.csv")
    with pytest.raises(DataError, match=r"no usable caption; 2 rows skipped, the first in .*: the caption has no word"):
        collect_entries(Candidate(path, "", format="table"), ReadOptions(), no_progress)


def test_captions_that_are_empty_without_their_markers_are_skipped(tmp_path):
    rows = ["a.jpg,startseq a dog endseq", "b.jpg,startseq endseq", "c.jpg,startseq . endseq"]
    path = write(tmp_path, "\n".join(["image,caption", *rows]), "captions.csv")
    found = collect_entries(Candidate(path, "", format="table"), ReadOptions(), no_progress)
    assert kept(found) == [("a.jpg", "a dog", None)]
    assert skipped(found) == [(3, "b.jpg", "the caption is empty"), (4, "c.jpg", "the caption has no word")]
