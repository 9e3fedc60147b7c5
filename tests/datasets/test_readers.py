"""Datasets as their publishers lay them out: what each reader makes of them."""

import json
import tarfile
import zipfile

import pytest
from reading import kept, read, refused, written

from pipeline.datasets.formats import detect_format
from pipeline.datasets.table import Columns
from pipeline.errors import DataError

# table


def test_a_quoted_comma_belongs_to_the_caption(tmp_path):
    path = written(tmp_path, 'image,caption\na.jpg,"one, two and ""three"""\n')
    assert kept(read("table", path)) == [("a.jpg", 'one, two and "three"', None)]


def test_columns_may_stand_in_any_order_and_the_file_may_begin_with_a_mark(tmp_path):
    path = written(tmp_path, "\ufeffsplit,caption,image\nval,a dog,a.jpg\n")
    assert kept(read("table", path)) == [("a.jpg", "a dog", "val")]


@pytest.mark.parametrize(("name", "mark"), [("c.tsv", "\t"), ("c.csv", ";"), ("c.csv", "|"), ("c.txt", ",")])
def test_the_header_tells_the_delimiter(tmp_path, name, mark):
    path = written(tmp_path, f"image{mark}caption{mark}split\na.jpg{mark}a dog{mark}dev\n", name)
    assert kept(read("table", path)) == [("a.jpg", "a dog", "val")]


def test_columns_are_found_by_the_names_that_people_give_them(tmp_path):
    path = written(tmp_path, "id,file_name,text\n7,a.jpg,a dog\n")
    assert kept(read("table", path)) == [("a.jpg", "a dog", None)]


def test_columns_may_be_named(tmp_path):
    path = written(tmp_path, "image,photo,caption,words\nx,a.jpg,y,a dog\n")
    columns = Columns(image="photo", caption="Words")
    assert kept(read("table", path, columns=columns)) == [("a.jpg", "a dog", None)]


def test_one_row_may_hold_several_captions_of_its_picture(tmp_path):
    path = written(tmp_path, "image,caption_0,caption_1,caption_2\na.jpg,one,,three\nb.jpg,,,\n")
    captions = read("table", path)
    assert kept(captions) == [("a.jpg", "one", None), ("a.jpg", "three", None)]
    assert refused(captions) == [(3, "b.jpg", "the caption is empty")]


@pytest.mark.parametrize(
    "header", ["Image Name,Caption Text", "IMAGE_NAME,caption text", '"Image  name","Caption_Text"']
)
def test_columns_are_found_in_any_case_and_with_blanks(tmp_path, header):
    assert kept(read("table", written(tmp_path, f"{header}\na.jpg,a dog\n"))) == [("a.jpg", "a dog", None)]


def test_a_column_may_be_named_with_its_blanks(tmp_path):
    path = written(tmp_path, "Photo No,What is said,image,caption\na.jpg,a dog,x,y\n")
    columns = Columns(image="photo no", caption="What is said")
    assert kept(read("table", path, columns=columns)) == [("a.jpg", "a dog", None)]


NAMES = [
    ("train.csv", "val.csv", "test.csv"),
    ("training.tsv", "validation.tsv", "test.tsv"),
    ("captions_train2017.jsonl", "captions_dev.jsonl", "Test-captions.jsonl"),
]


@pytest.mark.parametrize("names", NAMES)
def test_tables_named_after_splits_are_one_dataset(tmp_path, names):
    for letter, name in zip("abc", names, strict=True):
        row = {"image": f"{letter}.jpg", "caption": "a dog"}
        mark = "\t" if name.endswith("tsv") else ","
        rows = json.dumps(row) if name.endswith("jsonl") else f"{mark.join(row)}\n{mark.join(row.values())}\n"
        written(tmp_path, rows, name)
    found = detect_format(tmp_path)
    assert (found.format, found.captions) == ("table", tmp_path)
    assert found.saw == f"{', '.join(names)}, a table for each split"
    assert kept(read("table", tmp_path)) == [
        ("a.jpg", "a dog", "train"),
        ("b.jpg", "a dog", "val"),
        ("c.jpg", "a dog", "test"),
    ]


def test_several_tables_of_a_split_are_read_and_a_split_column_stands(tmp_path):
    written(tmp_path, "image,caption,split\na.jpg,x,\nb.jpg,x,test\n", "train_1.csv")
    written(tmp_path, "image,caption\nc.jpg,x\n", "train_2.csv")
    written(tmp_path, "image,caption\nd.jpg,x\n", "val.csv")
    assert [(image, split) for image, _, split in kept(read("table", tmp_path))] == [
        ("a.jpg", "train"),
        ("b.jpg", "test"),
        ("c.jpg", "train"),
        ("d.jpg", "val"),
    ]


def test_one_table_that_is_named_after_a_split_is_a_whole_dataset(tmp_path):
    written(tmp_path, "image,caption\na.jpg,x\n", "train.csv")
    written(tmp_path, "image,width\nb.jpg,3\n", "test.csv")
    found = detect_format(tmp_path)
    assert found.captions == tmp_path / "train.csv"
    assert kept(read("table", found.captions)) == [("a.jpg", "x", None)]


def test_a_split_whose_table_has_no_captions_is_refused(tmp_path):
    for name in ("train.csv", "val.csv"):
        written(tmp_path, f"image,caption\n{name}.jpg,x\n", name)
    written(tmp_path, "image,width\nb.jpg,3\n", "test.csv")
    with pytest.raises(DataError, match=r"test.csv, line 1: no column caption; the header is \['image', 'width'\]"):
        read("table", detect_format(tmp_path).captions)


def test_json_lines_hold_a_caption_or_a_list(tmp_path):
    lines = [
        {"image": "a.jpg", "caption": "a dog", "split": "test"},
        {"file_name": "b.jpg", "text": ["one", "two"]},
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, lines)), "c.jsonl")
    assert kept(read("table", path)) == [("a.jpg", "a dog", "test"), ("b.jpg", "one", None), ("b.jpg", "two", None)]


def test_a_json_list_of_objects_is_a_table(tmp_path):
    path = written(tmp_path, json.dumps([{"image": "a.jpg", "caption": "a dog"}]), "c.json")
    assert kept(read("table", path)) == [("a.jpg", "a dog", None)]


# flickr8k


def test_flickr8k_lists_give_the_splits(tmp_path):
    path = written(tmp_path, "image,caption\na.jpg,x\nb.jpg,y\nc.jpg,z\n", "captions.txt")
    written(tmp_path, "a.jpg\n", "Flickr_8k.trainImages.txt")
    written(tmp_path, "b.jpg\r\n", "Flickr_8k.devImages.txt")
    captions = read("flickr8k", path)
    assert kept(captions) == [("a.jpg", "x", "train"), ("b.jpg", "y", "val")]
    assert refused(captions) == [(4, "c.jpg", "the picture is in none of the split lists")]


def test_flickr8k_original_token_file_is_read_with_its_known_bad_name(tmp_path):
    written(
        tmp_path,
        "a.jpg#0\tA dog , running .\na.jpg#1\tA cat\nbroken line\n2258277193_586949ec62.jpg.1#0\tpeople\n",
        "Flickr8k.token.txt",
    )
    captions = read("flickr8k", tmp_path)
    assert kept(captions) == [
        ("a.jpg", "A dog , running .", None),
        ("a.jpg", "A cat", None),
        ("2258277193_586949ec62.jpg", "people", None),
    ]
    assert refused(captions) == [(3, "broken line", "no tab between the picture's name and the caption")]


def test_a_picture_in_two_flickr_lists_is_an_error(tmp_path):
    written(tmp_path, "image,caption\na.jpg,x\n", "captions.txt")
    for name in ("Flickr_8k.trainImages.txt", "Flickr_8k.testImages.txt"):
        written(tmp_path, "a.jpg\n", name)
    with pytest.raises(DataError, match="a picture belongs to one split"):
        read("flickr8k", tmp_path)


# flickr30k


def test_flickr30k_results_are_read_with_the_row_that_lacks_a_field(tmp_path):
    written(
        tmp_path,
        "image_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys , outside .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
        "1.jpg| 2| a sign | with a bar\n"
        "2.jpg\n",
        "results.csv",
    )
    captions = read("flickr30k", tmp_path)
    assert kept(captions) == [
        ("1000092795.jpg", "Two young guys , outside .", None),
        ("2199200615.jpg", "A dog runs across the grass .", None),
        ("1.jpg", "a sign | with a bar", None),
    ]
    assert refused(captions) == [(5, "2.jpg", "expected image_name | comment_number | comment")]


def test_flickr30k_original_token_file_is_read(tmp_path):
    path = written(tmp_path, 'a.jpg#0\tA "dog" runs .\na.jpg#4\tA cat\n', "results_20130124.token")
    assert kept(read("flickr30k", path)) == [("a.jpg", 'A "dog" runs .', None), ("a.jpg", "A cat", None)]


# coco


def coco(folder, name, images, annotations, **more):
    return written(folder, json.dumps({"info": {"a": [1]}, "images": images, "annotations": annotations, **more}), name)


def test_coco_names_pictures_by_their_folder_and_keeps_val_for_testing(tmp_path):
    images = [{"id": 7, "file_name": "7.jpg"}]
    coco(tmp_path, "captions_train2017.json", images, [{"image_id": 7, "caption": "A cat."}])
    said = [{"image_id": 7, "caption": "A dog.\n"}, {"image_id": 8, "caption": "x"}, {"image_id": 7}]
    coco(tmp_path, "captions_val2017.json", images, said)
    captions = read("coco", tmp_path)
    assert kept(captions) == [("train2017/7.jpg", "A cat.", "train"), ("val2017/7.jpg", "A dog.", "test")]
    assert refused(captions) == [
        (2, "", "image_id 8 is not among the images"),
        (3, "", "the annotation has no caption"),
    ]


def test_one_coco_file_alone_has_no_splits(tmp_path):
    path = coco(tmp_path, "captions_val2014.json", [{"id": 1, "file_name": "1.jpg"}], [{"image_id": 1, "caption": "x"}])
    assert kept(read("coco", path)) == [("val2014/1.jpg", "x", None)]


def test_coco_annotations_may_stand_before_the_images(tmp_path):
    content = {"annotations": [{"image_id": 1, "caption": "x"}], "images": [{"id": 1, "file_name": "1.jpg"}]}
    path = written(tmp_path, json.dumps(content), "captions.json")
    assert kept(read("coco", path)) == [("1.jpg", "x", None)]


def test_an_id_with_two_file_names_speaks_for_neither(tmp_path):
    images = [{"id": 1, "file_name": n} for n in ("a.jpg", "b.jpg", "a.jpg")] + [{"id": 2, "file_name": "c.jpg"}] * 2
    said = [{"id": 9, "image_id": 1, "caption": "x"}, {"id": 9, "image_id": 2, "caption": "y"}]
    captions = read("coco", coco(tmp_path, "captions.json", images, said))
    assert kept(captions) == [("c.jpg", "y", None)]
    two = "image id 1 has two file names; its captions are left out"
    assert refused(captions) == [(2, "b.jpg", two), (3, "a.jpg", two), (1, "", "image_id 1 has two file names")]


def test_a_file_that_is_not_coco_is_refused(tmp_path):
    with pytest.raises(DataError, match="not in COCO's layout"):
        read("coco", written(tmp_path, "[1, 2]", "captions.json"))


def test_a_large_coco_file_is_read_across_its_chunks(tmp_path):
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "url": "http://example.org/" + "x" * 100} for n in range(5000)]
    said = [{"image_id": n % 5000, "id": n, "caption": f"a caption, number {n} \u4e2d"} for n in range(25_000)]
    captions = read("coco", coco(tmp_path, "captions_train2017.json", images, said))
    assert [row.caption for row in captions.rows] == [one["caption"] for one in said]
    assert (len({row.image for row in captions.rows}), captions.skipped) == (5000, [])


# karpathy


def test_karpathy_gives_splits_and_trains_on_restval(tmp_path):
    images = [
        {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog."}, {}]},
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filename": "c.jpg", "split": "odd", "sentences": [{"raw": "x"}]},
        {"filename": "d.jpg", "split": "val", "sentences": []},
        {"split": "val", "sentences": []},
    ]
    written(tmp_path, json.dumps({"images": images, "dataset": "coco"}), "dataset_coco.json")
    captions = read("karpathy", tmp_path)
    assert kept(captions) == [
        ("val2014/a.jpg", "A dog.", "train"),
        ("b.jpg", "one", "test"),
        ("b.jpg", "two", "test"),
    ]
    assert refused(captions) == [
        (1, "val2014/a.jpg", "the sentence has no raw text"),
        (3, "c.jpg", "split must be one of train, val, test, restval, got 'odd'"),
        (4, "d.jpg", "the image has no sentences"),
        (5, "", "the image has no filename"),
    ]


# folder


def test_texts_beside_pictures_are_captions_line_by_line(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "c.jpg", "val/d.webp"):
        written(tmp_path, b"picture", name)
    written(tmp_path, "a red fox\n\na fox in snow\n", "a.txt")
    written(tmp_path, "\ufeffa dog", "sub/b.txt")
    written(tmp_path, "a cat", "val/d.caption")
    written(tmp_path, "nobody", "lost.txt")
    captions = read("folder", tmp_path)
    assert kept(captions) == [
        ("a.jpg", "a red fox", None),
        ("a.jpg", "a fox in snow", None),
        ("sub/b.PNG", "a dog", None),
        ("val/d.webp", "a cat", "val"),
    ]
    assert refused(captions) == [
        (0, "c.jpg", "the picture has no caption"),
        (0, "lost.txt", "no picture stands beside the text"),
    ]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_texts_beside_pictures_are_found_in_shards(tmp_path, kind):
    files = {"00.jpg": b"one", "00.txt": b"a dog", "01.jpg": b"two", "01.txt": b"a cat", "01.json": b"{}"}
    for shard in ("train", "val"):
        archive = tmp_path / f"{shard}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as out:
                for name, content in files.items():
                    out.writestr(name, content)
        else:
            with tarfile.open(archive, "w") as out:
                for name, content in files.items():
                    path = written(tmp_path / "loose", content, name)
                    out.add(path, f"./{name}")
    for path in (tmp_path / "loose").glob("*"):
        path.unlink()
    captions = read("folder", tmp_path)
    assert kept(captions) == [
        (f"train.{kind}/00.jpg", "a dog", "train"),
        (f"train.{kind}/01.jpg", "a cat", "train"),
        (f"val.{kind}/00.jpg", "a dog", "val"),
        (f"val.{kind}/01.jpg", "a cat", "val"),
    ]
    assert captions.skipped == []


def test_shards_may_hold_captions_as_json(tmp_path):
    (tmp_path / "train").mkdir()
    for shard in ("train/train-00000.tar", "val_01.tar"):
        with tarfile.open(tmp_path / shard, "w") as out:
            for name, content in {
                "1.jpg": b"picture",
                "1.json": b'{"captions": ["a dog", "a cat", 7]}',
                "2.jpg": b"picture",
                "2.json": b'{"caption": "json"}',
                "2.txt": b"a text goes before",
                "3.jpg": b"picture",
                "3.json": b"{",
                "lost.json": b"{}",
            }.items():
                out.add(written(tmp_path / "loose", content, name), name)
    for path in (tmp_path / "loose").glob("*"):
        path.unlink()
    captions = read("folder", tmp_path)
    val = "val_01.tar"
    assert kept(captions)[3:] == [
        (f"{val}/1.jpg", "a dog", "val"),
        (f"{val}/1.jpg", "a cat", "val"),
        (f"{val}/2.jpg", "a text goes before", "val"),
    ]
    assert [row.split for row in captions.rows[:3]] == ["train"] * 3
    assert [(image, reason.split(":")[0]) for _, image, reason in refused(captions)[2:]] == [
        (f"{val}/1.jpg", "the caption is not text"),
        (f"{val}/3.jpg", "not valid JSON"),
    ]


def test_an_imagefolder_has_its_metadata_above_or_beside_the_pictures(tmp_path):
    for name in ("train/1.jpg", "train/2.jpg", "test/1.jpg"):
        written(tmp_path, b"picture", name)
    written(tmp_path, "file_name,text\n1.jpg,a dog\n", "train/metadata.csv")
    written(tmp_path, '{"file_name": "1.jpg", "text": "a cat"}\n', "test/metadata.jsonl")
    captions = read("folder", tmp_path)
    assert kept(captions) == [("test/1.jpg", "a cat", "test"), ("train/1.jpg", "a dog", "train")]
    assert refused(captions) == [(0, "train/2.jpg", "the picture has no caption")]


# auto


LAYOUTS = {
    "flickr8k": {"captions.txt": "image,caption\na.jpg,x\n", "Images/a.jpg": "picture"},
    "flickr8k token": {"Flickr8k.token.txt": "a.jpg#0\tx\n"},
    "flickr30k": {"results.csv": "image_name| comment_number| comment\na.jpg| 0| x\n"},
    "flickr30k token": {"results_20130124.token": "a.jpg#0\tx\n"},
    "coco": {"annotations/captions_val2017.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}'},
    "karpathy": {"dataset_flickr8k.json": '{"images": [{"sentences": []}]}'},
    "table": {"my rows.tsv": "image\tcaption\na.jpg\tx\n"},
    "table csv": {"captions.csv": "image,caption\na.jpg,x\n", "notes.csv": "date,weather\n1,2\n"},
    "table jsonl": {"rows.jsonl": '{"image": "a.jpg", "caption": "x"}\n'},
    "folder": {"a.jpg": "picture", "a.txt": "x"},
    "folder metadata": {"metadata.csv": "file_name,text\na.jpg,x\n", "a.jpg": "picture"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised_by_itself_and_by_its_file(tmp_path, layout):
    files = [written(tmp_path, text, name) for name, text in LAYOUTS[layout].items()]
    found = detect_format(tmp_path)
    assert found.format == layout.split()[0]
    assert found.saw
    if layout != "folder":
        assert detect_format(files[0]).format == found.format


def test_of_two_captions_files_the_surer_one_is_taken_and_the_other_named(tmp_path):
    written(tmp_path, '{"images": [{"sentences": []}]}', "dataset_flickr8k.json")
    written(tmp_path, "image,caption\na.jpg,x\n", "captions.txt")
    found = detect_format(tmp_path)
    assert found.format == "karpathy"
    assert "not used: captions.txt" in found.saw


def test_what_is_not_recognised_says_what_is(tmp_path):
    written(tmp_path, "hello", "readme.md")
    with pytest.raises(DataError, match=r"no captions were recognised: .* see docs/datasets.md"):
        detect_format(tmp_path)
    with pytest.raises(DataError, match="neither COCO's nor Karpathy's layout"):
        detect_format(written(tmp_path, '{"a": 1}', "odd.json"))


def test_what_lacks_its_columns_says_what_it_has_and_where_to_name_them(tmp_path):
    said = (
        r"labels.csv, line 1: no column image and caption; the header is \['Photo', 'beschreibung'\]; name the columns "
        r"with params.data.image_column and caption_column"
    )
    path = written(tmp_path, "Photo,beschreibung\na.jpg,ein Hund\n", "labels.csv")
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=said):
            detect_format(place)
        found = detect_format(place, columns=Columns(image="photo", caption="beschreibung"))
        assert (found.format, found.captions) == ("table", path)


def test_a_captions_txt_may_have_columns_of_other_names(tmp_path):
    path = written(tmp_path, "photo,beschreibung\na.jpg,ein Hund\n", "captions.txt")
    columns = Columns(image="photo", caption="beschreibung")
    assert kept(read(detect_format(path, columns=columns).format, path, columns=columns)) == [("a.jpg", "ein Hund", None)]


def test_an_encoding_that_is_given_counts_when_columns_are_looked_for(tmp_path):
    path = written(tmp_path, "bild,\u00fcberschrift\na.jpg,ein Hund\n", "labels.csv", encoding="cp1252")
    columns = Columns(image="bild", caption="\u00fcberschrift")
    with pytest.raises(DataError, match="no column \u00fcberschrift"):
        detect_format(path, columns=columns)
    assert detect_format(path, encoding="cp1252", columns=columns).format == "table"


def test_keys_of_other_names_say_where_to_name_them(tmp_path):
    path = written(tmp_path, json.dumps({"photo": "a.jpg", "caption": "ein Hund"}), "c.jsonl")
    assert refused(read("table", path)) == [
        (
            1,
            "",
            "no key image; the keys are 'photo, caption'; name the columns with params.data.image_column "
            "(auto: the usual names)",
        )
    ]


# the real data


def test_the_real_flickr8k_captions_are_all_kept(shared):
    captions = read("flickr8k", shared / "data" / "flickr8k-captions" / "captions.txt")
    assert (len(captions.rows), captions.skipped, captions.notes) == (40_455, [], [])
    assert len({row.image for row in captions.rows}) == 8_091
    as_table = read("table", shared / "data" / "flickr8k-captions" / "captions.txt")
    assert kept(as_table) == kept(captions)


def test_the_real_flickr8k_captions_are_what_the_csv_module_reads(shared):
    import csv

    path = shared / "data" / "flickr8k-captions" / "captions.txt"
    with path.open(newline="", encoding="utf-8") as file:
        expected = [(image, " ".join(caption.split())) for image, caption in list(csv.reader(file))[1:]]
    assert [(image, caption) for image, caption, _ in kept(read("flickr8k", path))] == expected


def test_the_real_captions_are_the_same_in_every_format(shared, tmp_path):
    """flickr8k-mini written as each format that can hold it."""
    source = kept(read("flickr8k", shared / "data" / "flickr8k-mini"))
    by_image = {}
    for image, caption, split in source:
        by_image.setdefault((image, split), []).append(caption)
    rows = [{"image": image, "caption": captions, "split": split} for (image, split), captions in by_image.items()]
    sentences = [
        {"filename": one["image"], "split": one["split"], "sentences": [{"raw": text} for text in one["caption"]]}
        for one in rows
    ]
    token = "".join(f"{r['image']}#{n}\t{text}\n" for r in rows for n, text in enumerate(r["caption"]))
    results = "".join(f"{r['image']}| {n}| {text}\n" for r in rows for n, text in enumerate(r["caption"]))
    without = [(image, caption, None) for image, caption, _ in source]
    assert kept(read("table", written(tmp_path, "\n".join(map(json.dumps, rows)), "rows.jsonl"))) == source
    assert kept(read("karpathy", written(tmp_path, json.dumps({"images": sentences}), "dataset_x.json"))) == source
    assert kept(read("flickr8k", written(tmp_path, token, "f/Flickr8k.token.txt"))) == without
    header = "image_name| comment_number| comment\n"
    assert kept(read("flickr30k", written(tmp_path, header + results, "f/results.csv"))) == without


def test_the_real_mini_sets_are_read_whole(shared):
    flickr = read("flickr8k", shared / "data" / "flickr8k-mini")
    assert (len(flickr.rows), len(flickr.skipped)) == (798 * 5, 0)
    found = detect_format(shared / "data" / "coco-mini")
    assert found.format == "coco"
    rows = read("coco", found.captions).rows
    assert len({row.image for row in rows}) == 80
