"""The format `table`."""

import json

import pytest
from reading import detect, kept, read, skipped, write

from pipeline.errors import DataError


def test_columns_in_any_order_after_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "\ufeffsplit,caption,image\nval,a dog,a.jpg\n")
    assert kept(read("table", path)) == [("a.jpg", "a dog", "val")]


@pytest.mark.parametrize(("name", "mark"), [("c.tsv", "\t"), ("c.csv", ";"), ("c.csv", "|"), ("c.txt", ",")])
def test_the_first_line_that_is_not_blank_determines_the_delimiter(tmp_path, name, mark):
    path = write(tmp_path, f"\n \r\nimage{mark}caption{mark}split\na.jpg{mark}a dog{mark}dev\n", name)
    entries = read("table", path)
    assert kept(entries) == [("a.jpg", "a dog", "val")]
    assert entries.captions[0].line == 4


def test_columns_are_found_by_names_from_the_params(tmp_path):
    path = write(tmp_path, "image,Photo No,caption,Spoken text\nx,a.jpg,y,a dog\n")
    columns = {"image_column": "photo no", "caption_column": "Spoken text"}
    assert kept(read("table", path, **columns)) == [("a.jpg", "a dog", None)]


def test_one_row_with_several_caption_columns(tmp_path):
    path = write(tmp_path, "image,caption_0,caption_1,caption_2\na.jpg,one,,three\nb.jpg,,,\n")
    entries = read("table", path)
    assert kept(entries) == [("a.jpg", "one", None), ("a.jpg", "three", None)]
    assert skipped(entries) == [(3, "b.jpg", "the caption is empty")]


BESIDE = {
    "image_id,caption_id,caption_text": " is read from column 3 ('caption_text'), not from column 2 ('caption_id')",
    "image,caption_1,caption_2": "s are read from column 2 ('caption_1') and column 3 ('caption_2')",
    "image,Caption Lang,caption_en,caption_de,caption_en_length": "s are read from column 3 ('caption_en') and "
    "column 4 ('caption_de'), not from column 2 ('caption_lang') and column 5 ('caption_en_length')",
    "filename,caption_source,text_length,text_content": " is read from column 4 ('text_content'), not from column 2 "
    "('caption_source') and column 3 ('text_length')",
    "image,comment_number,comment_1": " is read from column 3 ('comment_1'), not from column 2 ('comment_number')",
}


@pytest.mark.parametrize("header", BESIDE)
def test_a_pattern_of_captions_leaves_out_what_describes_them_and_is_noted(tmp_path, header):
    names = [name.split("_")[-1] for name in header.split(",")[1:]]
    entries = read("table", write(tmp_path, f"{header}\n7,{','.join(names)}\n"))
    left_out = {"id", "Caption Lang", "length", "source", "number"}
    assert kept(entries) == [("7", name, None) for name in names if name not in left_out]
    assert entries.notes == [f"{tmp_path}/captions.csv: the caption{BESIDE[header]}"]


def test_what_describes_a_caption_is_read_only_by_its_own_name_or_pattern(tmp_path):
    path = write(tmp_path, "image,caption_id,text_author\na.jpg,17,me\n")
    with pytest.raises(DataError, match="no column caption; the header is"):
        read("table", path)
    for name in ("caption_id", "caption_*"):
        named = read("table", path, caption_column=name)
        assert (kept(named), named.notes) == ([("a.jpg", "17", None)], [])


def test_a_key_that_describes_a_caption_is_no_caption(tmp_path):
    entries = read("table", write(tmp_path, '[{"image": "a.jpg", "text_id": 4, "text_en": "a dog"}]', "a.json"))
    assert (kept(entries), entries.skipped) == ([("a.jpg", "a dog", None)], [])
    assert entries.notes == [f"{tmp_path}/a.json: the caption is read from key 'text_en', not from key 'text_id'"]


@pytest.mark.parametrize("header", ["image,caption,caption", "image,caption,caption.1"])
def test_columns_of_one_name_hold_captions_each_also_as_pandas_renames_them(tmp_path, header):
    path = write(tmp_path, f"{header}\na.jpg,a dog,a wet dog\n")
    assert kept(read("table", path)) == [("a.jpg", "a dog", None), ("a.jpg", "a wet dog", None)]
    if header.endswith(".1"):
        assert kept(read("table", path, caption_column="caption.1")) == [("a.jpg", "a wet dog", None)]


def test_lines_that_are_in_quotes_as_a_whole_are_named_as_such(tmp_path):
    path = write(tmp_path, '"image,caption"\n"a.jpg,""a dog, wet"""\n')
    with pytest.raises(DataError, match="line 1: the whole line is in quotes; remove the outer quotes of each such"):
        read("table", path)
    entries = read("table", write(tmp_path, 'image,caption\na.jpg,a cat\n"b.jpg,""a dog, wet"""\n'))
    assert skipped(entries)[0][2].startswith(
        "the whole line is in quotes; remove the outer quotes of each such line, and"
    )


def test_text_in_a_column_without_a_name_is_noted(tmp_path):
    entries = read("table", write(tmp_path, ";image;caption;;\n0;a.jpg;a dog;a wet dog;\n1;b.jpg;a cat;;\n"))
    assert len(entries.captions) == 2
    assert entries.notes[-1].endswith("1 row has text in a column without a name (4, 5), which is not read")
    assert not read("table", write(tmp_path, "image;caption;;\na.jpg;a dog;;\n")).notes


def test_a_numbered_copy_of_the_caption_column_is_named(tmp_path):
    entries = read("table", write(tmp_path, "image,caption,caption (2)\na.jpg,a dog,a wet dog\n"))
    assert "the caption is read from column 2 ('caption'), not from column 3 ('caption_(2)')" in entries.notes[0]


@pytest.mark.parametrize(
    "header", ["Image Name,Caption Text", "IMAGE_NAME,caption text", '"Image  name","Caption_Text"']
)
def test_column_names_are_compared_without_case_and_spaces(tmp_path, header):
    assert kept(read("table", write(tmp_path, f"{header}\na.jpg,a dog\n"))) == [("a.jpg", "a dog", None)]


def test_json_lines_with_a_caption_or_a_list_of_captions(tmp_path):
    lines = [
        {"image": "a.jpg", "caption": "a dog", "split": "test"},
        {"file_name": "b.jpg", "text": ["one", "two"]},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)), "c.jsonl")
    assert kept(read("table", path)) == [("a.jpg", "a dog", "test"), ("b.jpg", "one", None), ("b.jpg", "two", None)]


def test_unknown_json_keys_are_reported_with_the_params_to_set(tmp_path):
    path = write(tmp_path, json.dumps({"photo": "a.jpg", "caption": "ein Hund"}), "c.jsonl")
    assert skipped(read("table", path)) == [
        (
            1,
            "",
            "no key image; the keys are ['photo', 'caption']; rename them or, for a dataset, name the "
            "columns with params.data.image_column (auto: the usual names)",
        )
    ]


@pytest.mark.parametrize(
    "cell",
    [
        '"[""a dog"", ""it\'s wet""]"',
        '''"['a dog', 'it\\'s wet']"''',
        '"[\'a dog\', ""it\'s wet""]"',
        '"(\'a dog\', ""it\'s wet"")"',
        '"[\'a dog\'\n ""it\'s wet""]"',
        '"[{""raw"": ""a dog"", ""tokens"": [""a""]}, {""caption"": ""it\'s wet""}]"',
        "\"[{'raw': 'a dog', 'id': 3}, {'raw': \"\"it's wet\"\"}]\"",
    ],
    ids=["json", "python", "python with both quotes", "a tuple", "numpy", "objects", "objects of python"],
)
def test_a_cell_with_a_list_holds_several_captions(tmp_path, cell):
    path = write(tmp_path, f"raw,split,filename\n{cell},train,a.jpg\n[a sign],train,b.jpg\n[3],val,c.jpg\n")
    entries = read("table", path)
    assert kept(entries) == [
        ("a.jpg", "a dog", "train"),
        ("a.jpg", "it's wet", "train"),
        ("b.jpg", "[a sign]", "train"),
        ("c.jpg", "[3]", "val"),
    ]


@pytest.mark.parametrize(
    "cell",
    [
        *('"[""a dog"", ""a wet d"', '"[""a dog"", null]"', "\"['a dog'] and more\"", '"[[""a dog""]]"'),
        *(
            "[{'n': 'a'}]",
            "{'text': 'a dog'}",
            "b'a dog'",
            "[b'a dog']",
            "\"array(['a dog'], dtype=object)\"",
            "[array(['a dog'])]",
        ),
    ],
)
def test_data_that_is_no_list_of_captions_is_skipped(tmp_path, cell):
    path = write(tmp_path, f'image,caption\na.jpg,{cell}\nb.jpg,"(""Stop"" is on a sign)"\n')
    entries = read("table", path)
    assert kept(entries) == [("b.jpg", '("Stop" is on a sign)', None)]
    (skipped,) = entries.skipped
    assert (skipped.image, skipped.line) == ("a.jpg", 2)
    assert skipped.reason.startswith("neither a caption nor a list of captions; write a list as JSON:")


def test_a_caption_number_after_the_image_name_is_removed(tmp_path):
    path = write(tmp_path, "image,caption\na.jpg#0,one\na.jpg#1,two\nb#0,three\n")
    assert kept(read("table", path)) == [("a.jpg", "one", None), ("a.jpg", "two", None), ("b", "three", None)]


# One table per split


NAMES = [
    ("train.csv", "val.csv", "test.csv"),
    ("training.tsv", "validation.tsv", "test.tsv"),
    ("captions_train2017.jsonl", "captions_dev.jsonl", "Test-captions.jsonl"),
    ("_annotations.train.jsonl", "_annotations.valid.jsonl", "_annotations.test.jsonl"),
    ("my-2 train.json", "my-2 val.json", "my-2 test.json"),
]


@pytest.mark.parametrize("names", NAMES)
def test_one_table_per_split(tmp_path, names):
    for letter, name in zip("abc", names, strict=True):
        row = {"image": f"{letter}.jpg", "caption": "a dog"}
        mark = "\t" if name.endswith("tsv") else ","
        rows = json.dumps(row) if "json" in name else f"{mark.join(row)}\n{mark.join(row.values())}\n"
        write(tmp_path, rows, name)
    found = detect(tmp_path)
    assert (found.format, found.captions) == ("table", tmp_path)
    assert found.evidence == f"{', '.join(names)}, one table per split"
    assert kept(read("table", tmp_path)) == [
        ("a.jpg", "a dog", "train"),
        ("b.jpg", "a dog", "val"),
        ("c.jpg", "a dog", "test"),
    ]


def test_several_tables_of_a_split_where_a_split_column_takes_precedence(tmp_path):
    write(tmp_path, "image,caption,split\na.jpg,x,\nb.jpg,x,test\n", "train_1.csv")
    write(tmp_path, "image,caption\nc.jpg,x\n", "train_2.csv")
    write(tmp_path, "image,caption\nd.jpg,x\n", "val.csv")
    assert [(image, split) for image, _, split in kept(read("table", tmp_path))] == [
        ("a.jpg", "train"),
        ("b.jpg", "test"),
        ("c.jpg", "train"),
        ("d.jpg", "val"),
    ]


def test_a_second_download_of_a_table_is_not_read(tmp_path):
    for name in ("train", "train (1)", "val", "val-2", "test(2)"):
        write(tmp_path, f"image,caption\n{name}.jpg,x\n", f"{name}.csv")
    assert "not used: train (1).csv" in detect(tmp_path).evidence
    entries = read("table", tmp_path)
    assert [image for image, _, _ in kept(entries)] == ["train.jpg", "val-2.jpg", "val.jpg", "test(2).jpg"]
    (note,) = entries.notes
    assert "train (1).csv: not read, as a second download of train.csv" in note
    for name in ("val", "val-2", "test(2)"):
        (tmp_path / f"{name}.csv").unlink()
    assert detect(tmp_path).captions == tmp_path / "train.csv"


def test_of_several_groups_of_tables_the_one_with_captions_of_the_most_splits_is_read(tmp_path):
    for name in ("boxes_train", "boxes_val", "boxes_test"):
        write(tmp_path, "image,box\na.jpg,3\n", f"{name}.csv")
    for name in ("my_train", "my_val", "my2_train", "train"):
        write(tmp_path, f"image,caption\n{name}.jpg,x\n", f"{name}.csv")
    assert "my_train.csv, my_val.csv, one table per split" in detect(tmp_path).evidence
    assert "not used: my2_train.csv, train.csv" in detect(tmp_path).evidence
    assert kept(read("table", tmp_path)) == [("my_train.jpg", "x", "train"), ("my_val.jpg", "x", "val")]


def test_a_single_table_named_after_a_split_is_the_whole_dataset(tmp_path):
    write(tmp_path, "image,caption\na.jpg,x\n", "train.csv")
    write(tmp_path, "image,width\nb.jpg,3\n", "test.csv")
    found = detect(tmp_path)
    assert found.captions == tmp_path / "train.csv"
    assert kept(read("table", found.captions)) == [("a.jpg", "x", None)]


def test_a_split_table_without_captions_is_refused(tmp_path):
    for name in ("train.csv", "val.csv"):
        write(tmp_path, f"image,caption\n{name}.jpg,x\n", name)
    write(tmp_path, "image,width\nb.jpg,3\n", "test.csv")
    with pytest.raises(DataError, match=r"test.csv, line 1: no column caption; the header is \['image', 'width'\]"):
        read("table", detect(tmp_path).captions)


def test_columns_that_are_not_read_are_noted(tmp_path):
    content = "image,file_name,caption,text,caption_2,image\na.jpg,x.jpg,a dog,a cat,a bird,b.jpg\n"
    entries = read("table", write(tmp_path, content))
    assert kept(entries) == [("a.jpg", "a dog", None)]
    image = "the image is read from column 1 ('image'), not from column 2 ('file_name') and column 6 ('image')"
    caption = "the caption is read from column 3 ('caption'), not from column 4 ('text') and column 5 ('caption_2')"
    assert entries.notes == [f"{tmp_path}/captions.csv: {text}" for text in (image, caption)]
    named = read("table", write(tmp_path, content), image_column="file_name", caption_column="caption*")
    assert kept(named)[1:] == [("x.jpg", "a bird", None)]
    assert not named.notes
    generated = read("table", write(tmp_path, "image,caption,generated_caption\na.jpg,a dog,a cat\n"))
    assert "from column 2 ('caption'), not from column 3 ('generated_caption')" in generated.notes[0]
    ids = read("table", write(tmp_path, "image_id,file_name,caption,caption_id\n7,a.jpg,a dog,1\n"))
    assert (kept(ids), ids.notes) == ([("a.jpg", "a dog", None)], [])
