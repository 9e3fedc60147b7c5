"""Malformed datasets: each case with all captions that are kept and all entries that are skipped.

docs/datasets.md lists the same cases in a table.
"""

import gzip
import json
import os
import re
import unicodedata

import pytest
from reading import detect, kept, read, skipped, write

from pipeline.datasets.caption_files import read_reference_file
from pipeline.datasets.text_files import open_text
from pipeline.errors import DataError, ParamsError

HEADER = "image,caption\n"
ONE_PER_LINE = re.escape("JSON Lines has one object per line and the suffix .jsonl: `jq -c . FILE > FILE.jsonl`")


def table(folder, text, name="captions.csv", encoding="utf-8"):
    return read("table", write(folder, text, name, encoding))


def captions_of(entries):
    return [row.caption for row in entries.captions]


# Quotes and delimiters


def test_quotes_inside_captions_are_kept(tmp_path):
    entries = table(
        tmp_path,
        HEADER
        + 'a.jpg,a "big" dog\nb.jpg,"big" dogs\nc.jpg,\'single\' and \u201ccurly\u201d and \u00abguillemets\u00bb\n'
        'd.jpg,a 12" ruler\ne.jpg,"doubled ""quotes"""\n',
    )
    assert captions_of(entries) == [
        'a "big" dog',
        '"big" dogs',
        "'single' and \u201ccurly\u201d and \u00abguillemets\u00bb",
        'a 12" ruler',
        'doubled "quotes"',
    ]
    assert entries.skipped == []


def test_an_unclosed_quote_affects_no_other_row(tmp_path):
    entries = table(tmp_path, HEADER + 'a.jpg,"a dog\nb.jpg,a cat\nc.jpg,"a fox"\nd.jpg,"a hen\n')
    assert kept(entries) == [
        ("a.jpg", '"a dog', None),
        ("b.jpg", "a cat", None),
        ("c.jpg", "a fox", None),
        ("d.jpg", '"a hen', None),
    ]


def test_two_stray_quotes_do_not_join_their_rows(tmp_path):
    entries = table(tmp_path, HEADER + 'a.jpg,"a dog\nb.jpg,a cat",too many\nc.jpg,a fox\n')
    assert kept(entries) == [("a.jpg", '"a dog', None), ("c.jpg", "a fox", None)]
    assert skipped(entries) == [(3, "b.jpg", "1 field too many; quote captions with commas")]


def test_a_thousand_unclosed_quotes_are_kept(tmp_path):
    entries = table(tmp_path, HEADER + "".join(f'{n}.jpg,"a dog {n}\n' for n in range(1000)))
    assert captions_of(entries) == [f'"a dog {n}' for n in range(1000)]


def test_a_quoted_caption_over_several_lines(tmp_path):
    entries = table(tmp_path, HEADER + 'a.jpg,"a dog\nand a ""cat""\n\nrun"\nb.jpg,x\n')
    assert kept(entries) == [("a.jpg", 'a dog and a "cat" run', None), ("b.jpg", "x", None)]
    assert entries.captions[1].line == 6


def test_spaces_before_a_quoted_field_are_skipped(tmp_path):
    entries = table(tmp_path, 'image, caption, split\na.jpg, "a dog, running", val\n"b.jpg",  "a ""cat""\nruns", val\n')
    assert kept(entries) == [("a.jpg", "a dog, running", "val"), ("b.jpg", 'a "cat" runs', "val")]
    assert entries.skipped == []


def test_an_unclosed_quote_after_a_space_affects_no_other_row(tmp_path):
    entries = table(tmp_path, HEADER + 'a.jpg, "a dog\nb.jpg, a cat\nc.jpg, "big" dogs\nd.jpg, "a hen"\n')
    assert captions_of(entries) == ['"a dog', "a cat", '"big" dogs', "a hen"]


def test_unquoted_commas_are_kept_in_the_last_column(tmp_path):
    entries = table(tmp_path, HEADER + "a.jpg,one, two, three\nb.jpg,four\n")
    assert captions_of(entries) == ["one, two, three", "four"]
    assert [note.partition(": ")[2] for note in entries.notes] == [
        "1 caption was read to the end of the line, because of an unquoted ','"
    ]


def test_unquoted_commas_before_another_column_are_skipped(tmp_path):
    entries = table(tmp_path, "image,caption,split\na.jpg,one, two,train\nb.jpg,x,train\n")
    assert captions_of(entries) == ["x"]
    assert skipped(entries) == [(2, "a.jpg", "1 field too many; quote captions with commas")]


def test_rows_with_too_few_or_too_many_fields_are_skipped(tmp_path):
    entries = table(tmp_path, "image,caption,split\na.jpg,x,train\nb.jpg\n\nc.jpg,y\nd.jpg,z,val,,\n")
    assert captions_of(entries) == ["x"]
    assert skipped(entries) == [
        (3, "b.jpg", "2 fields too few"),
        (5, "c.jpg", "1 field too few"),
        (6, "d.jpg", "2 fields too many; quote captions with commas"),
    ]


def test_a_caption_with_quotes_after_backslashes_is_skipped_with_the_rule_of_csv(tmp_path):
    entries = table(tmp_path, 'image,caption,split\na.jpg,"a \\"big\\" dog, runs",train\nb.jpg,"a ""cat"", runs",val\n')
    assert kept(entries) == [("b.jpg", 'a "cat", runs', "val")]
    assert skipped(entries) == [
        (2, "a.jpg", r'1 field too many; write a quote inside a quoted caption as "", not as \"')
    ]


def test_rows_of_empty_fields_are_ignored_like_blank_lines(tmp_path):
    entries = table(tmp_path, 'image,caption,split\na.jpg,a dog,train\n,,\n , ,\n"",,\nb.jpg,,val\n')
    assert kept(entries) == [("a.jpg", "a dog", "train")]
    assert skipped(entries) == [(6, "b.jpg", "the caption is empty")]


# Headers


@pytest.mark.parametrize("mark", ";,|\t^")
def test_a_first_line_that_names_the_delimiter_is_followed(tmp_path, mark):
    path = write(tmp_path, f"sep={mark}\r\nimage{mark}caption\r\na.jpg{mark}a dog\r\n")
    entries = read("table", path)
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert entries.captions[0].line == 3


def test_comments_above_the_header_are_skipped_with_a_note(tmp_path):
    entries = table(tmp_path, "# made by hand, in 2024\n#\nimage,caption\na.jpg,# a sign\n#b.jpg,a dog\n")
    assert kept(entries) == [("a.jpg", "# a sign", None), ("#b.jpg", "a dog", None)]
    assert [note.partition(": ")[2] for note in entries.notes] == [
        "2 lines that start with # are above the header and are not read"
    ]


def test_a_header_or_a_first_row_that_starts_with_a_number_sign_is_no_comment(tmp_path):
    assert kept(table(tmp_path, "#,image,caption\n1,a.jpg,a dog\n")) == [("a.jpg", "a dog", None)]
    assert kept(table(tmp_path, "#a.jpg,a dog\nb.jpg,a cat\n"))[0] == ("#a.jpg", "a dog", None)


@pytest.mark.parametrize("first", ["image caption", "a.jpg a dog runs"])
def test_a_table_without_a_delimiter_is_refused_with_those_that_are_known(tmp_path, first):
    with pytest.raises(
        DataError, match=r"captions.csv, line 1: one column, '.*'; separate the image and the caption by"
    ):
        table(tmp_path, f"{first}\nb.jpg a cat\n")


def test_a_file_without_header_is_read_with_a_note(tmp_path):
    entries = table(tmp_path, "a.jpg,a dog, running; fast\nb.jpg,a cat\n")
    assert kept(entries) == [("a.jpg", "a dog, running; fast", None), ("b.jpg", "a cat", None)]
    assert "has no header; its columns are read as image, caption" in entries.notes[0]


def test_a_file_without_header_may_have_splits(tmp_path):
    entries = table(tmp_path, "a.jpg\ta dog\ttrain\nb.jpg\ta cat\tval\n", "c.tsv")
    assert kept(entries) == [("a.jpg", "a dog", "train"), ("b.jpg", "a cat", "val")]


def test_a_header_with_swapped_names_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"captions.csv, line 1: the header's names are swapped"):
        table(tmp_path, "caption,image\na.jpg,a dog\nb.jpg,a cat\n")


def test_a_header_without_the_columns_is_refused_with_its_names(tmp_path):
    with pytest.raises(DataError, match=r"captions.csv, line 1: no column caption; the header is \['image', 'words'\]"):
        table(tmp_path, "image,words\na.jpg,x\n")


def test_columns_from_the_params_must_exist(tmp_path):
    message = r"no column photo and part; .*; rename them or, .* with params.data.image_column and split_column"
    with pytest.raises(DataError, match=message):
        read("table", write(tmp_path, HEADER + "a,b\n"), image_column="photo", split_column="part")


def test_the_column_of_the_images_cannot_hold_the_captions(tmp_path):
    message = "the column image holds the images and cannot hold the captions; name another one in params.data.caption"
    with pytest.raises(DataError, match=message):
        read("table", write(tmp_path, HEADER + "a,b\n"), caption_column="image")
    path = write(tmp_path, '{"image": "a.jpg", "caption": "x"}', "c.jsonl")
    assert "the key image holds the images" in skipped(read("table", path, caption_column="image"))[0][2]


def test_an_error_of_a_reader_is_not_reported_as_one_of_the_encoding(tmp_path):
    with pytest.raises(IndexError, match="of the reader"), open_text(write(tmp_path, HEADER)):
        raise IndexError("of the reader")


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_detected(tmp_path, encoding):
    entries = table(tmp_path, HEADER + "a.jpg,un caf\u00e9 \U0001f415\nb.jpg,\u4e00\u53ea\u72d7\n", encoding=encoding)
    assert captions_of(entries) == ["un caf\u00e9 \U0001f415", "\u4e00\u53ea\u72d7"]


def test_a_latin_1_row_is_skipped_unless_the_encoding_is_given(tmp_path):
    path = write(tmp_path, HEADER + "a.jpg,un caf\u00e9\nb.jpg,a dog\n", encoding="latin-1")
    entries = read("table", path)
    assert captions_of(entries) == ["a dog"]
    assert skipped(entries) == [
        (2, "a.jpg", "not UTF-8: byte 0xe9; save the file as UTF-8 or set params.data.encoding")
    ]
    assert captions_of(read("table", path, encoding="latin-1")) == ["un caf\u00e9", "a dog"]


def test_an_unknown_encoding_is_refused(tmp_path):
    path = write(tmp_path, HEADER)
    for name in ("klingon", "rot13"):
        with pytest.raises(ParamsError, match=r"params.data.encoding"):
            read("table", path, encoding=name)


def test_invalid_bytes_affect_their_own_row_only(tmp_path):
    text = b"image,caption\na.jpg,one\nb.jpg,t\xffwo\nc\xfe.jpg,three\nd.jpg,\xe2\x82\ne.jpg,five\n"
    entries = table(tmp_path, text)
    assert captions_of(entries) == ["one", "five"]
    assert [(line, reason[:20]) for line, _, reason in skipped(entries)] == [
        (3, "not UTF-8: byte 0xff"),
        (4, "not UTF-8: byte 0xfe"),
        (5, "not UTF-8: byte 0xe2"),
    ]


def test_a_nul_character_is_skipped(tmp_path):
    entries = table(tmp_path, HEADER + "a.jpg,one\nb.jpg,tw\0o\nc\0.jpg,three\n")
    assert captions_of(entries) == ["one"]
    assert skipped(entries) == [
        (3, "b.jpg", "the caption holds a NUL character"),
        (4, "c\ufffd.jpg", "the image name holds a control character"),
    ]


def test_half_a_surrogate_pair_in_json_is_skipped(tmp_path):
    entries = table(
        tmp_path,
        '{"image": "a.jpg", "caption": "\\ud83d"}\n{"image": "b.jpg", "caption": "\\ud83d\\udc15 dog"}',
        "c.jsonl",
    )
    assert captions_of(entries) == ["\U0001f415 dog"]
    assert skipped(entries) == [(1, "a.jpg", "half of a surrogate pair stands for a character")]


# Line ends and white space


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_row(tmp_path, end):
    entries = table(tmp_path, end.join(["image,caption", "a.jpg,one", 'b.jpg,"two"', "", "c.jpg,three", ""]))
    assert captions_of(entries) == ["one", "two", "three"]
    assert [row.line for row in entries.captions] == [2, 3, 5]
    token = write(tmp_path, end.join(["a.jpg#0\tone", "b.jpg#0\ttwo"]), "Flickr8k.token.txt")
    assert captions_of(read("flickr8k", token)) == ["one", "two"]


def test_unicode_separators_do_not_end_a_row(tmp_path):
    entries = table(tmp_path, HEADER + "a.jpg,one\u2028two\x0cthree\x0bfour\u2029five\x85six\x1cseven\nb.jpg,x\n")
    assert captions_of(entries) == ["one two three four five six seven", "x"]


# Unicode


def test_right_to_left_text_and_emoji_sequences_are_kept(tmp_path):
    arabic = "\u0643\u0644\u0628 \u064a\u062c\u0631\u064a"
    family = "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 waves \U0001f44b\U0001f3fd"
    entries = table(tmp_path, HEADER + f"a.jpg,{arabic}\nb.jpg,\u200f{arabic}\u202c\nc.jpg,{family}\n")
    assert captions_of(entries) == [arabic, f"\u200f{arabic}\u202c", family]


def test_captions_and_names_are_normalized_to_nfc(tmp_path):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    entries = table(tmp_path, HEADER + f"{composed}.jpg,{apart}\n{apart}.jpg,{composed}\n")
    assert kept(entries) == [(f"{composed}.jpg", composed, None)] * 2


# Unusual captions


def test_missing_value_markers_and_numbers_are_words(tmp_path):
    words = ["NA", "None", "null", "NaN", "0012", "1e5", "TRUE", "-", "=1+1"]
    entries = table(tmp_path, HEADER + "".join(f"{n}.jpg,{word}\n" for n, word in enumerate(words)))
    assert captions_of(entries) == [word for word in words if word != "-"]
    assert skipped(entries) == [(9, "7.jpg", "the caption has no word")]


def test_json_values_that_are_not_text_are_skipped(tmp_path):
    values = ["12", "null", "true", '{"a": 1}', "[]", '[["x"]]']
    entries = table(tmp_path, "".join(f'{{"image": "a.jpg", "caption": {value}}}\n' for value in values), "c.jsonl")
    assert entries.captions == []
    reasons = [reason for _, _, reason in skipped(entries)]
    assert reasons == ["the caption is not text"] * 4 + ["the image has no caption", "the caption is not text"]


def test_captions_without_a_word_are_skipped(tmp_path):
    wordless = ["", "   ", "...", "?!", "\u3000", "\u3002", "\U0001f415", "_"]
    entries = table(tmp_path, HEADER + "".join(f"{n}.jpg,{text}\n" for n, text in enumerate(wordless)))
    assert entries.captions == []
    reasons = [reason for _, _, reason in skipped(entries)]
    empty, no_word = "the caption is empty", "the caption has no word"
    assert reasons == [empty, empty, no_word, no_word, empty, no_word, no_word, no_word]


def test_very_long_captions_are_kept(tmp_path):
    words, letters = " ".join(["dog"] * 10_000), "a" * 200_000
    entries = table(tmp_path, HEADER + f'a.jpg,{words}\nb.jpg,"{letters}"\n')
    assert captions_of(entries) == [words, letters]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": letters}]}
    assert captions_of(read("coco", write(tmp_path, json.dumps(content), "captions.json"))) == [letters]


def test_duplicate_rows_are_kept(tmp_path):
    """Two people may describe an image in the same words, and the reference scores count both."""
    entries = table(tmp_path, HEADER + "a.jpg,a dog\na.jpg,a dog\n")
    assert kept(entries) == [("a.jpg", "a dog", None)] * 2


# Files


def test_an_empty_file_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("empty.csv", "the file is empty"),
        ("folder.csv", "Is a directory"),
        ("no.csv", "No such file"),
    ):
        path = tmp_path / name
        if name == "empty.csv":
            path.write_bytes(b"")
        for format in ("table", "flickr30k") if name == "folder.csv" else ("table", "flickr8k", "coco", "karpathy"):
            with pytest.raises(DataError) as error:
                read(format, path)
            assert str(path) in str(error.value)
            assert message in str(error.value) or "holds neither" in str(error.value)


def test_a_header_alone_is_refused(tmp_path):
    path = write(tmp_path, HEADER)
    with pytest.raises(DataError, match=r"captions.csv: holds a header and no rows"):
        read("table", path)
    with pytest.raises(DataError, match=r"captions.csv: holds a header and no rows"):
        detect(tmp_path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (b"<!DOCTYPE html><title>404</title>", "a web page, not the file itself; download it again"),
        (b"PK\x03\x04xl/workbook.xml", "a zip archive or an Excel file; save the captions as CSV"),
        (b"PAR1\x15\x04", "a Parquet file; save the captions as CSV"),
        (gzip.compress(b"image,caption\na.jpg,x\n", mtime=0), "compressed with gzip; unpack it with gunzip"),
    ],
)
@pytest.mark.parametrize("name", ["captions.csv", "captions.json", "rows.jsonl", "rows.parquet", "captions.csv.gz"])
def test_a_file_that_is_no_text_is_named_with_what_it_is(tmp_path, content, words, name):
    path = write(tmp_path, content, name)
    for place in (tmp_path, path):
        with pytest.raises(DataError, match=rf"{name}: {re.escape(words)}"):
            detect(place)
    with pytest.raises(DataError, match=rf"{name}: {re.escape(words)}"):
        read_reference_file(path)


def test_a_pipe_instead_of_a_captions_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "captions.csv")
    os.mkfifo(tmp_path / "captions.json")
    for place in (tmp_path, tmp_path / "captions.csv"):
        with pytest.raises(DataError, match=r"captions.csv: not a regular file; save the captions in one"):
            detect(place)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncated_json_is_refused(tmp_path, keep):
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(50)]
    text = json.dumps({"images": images, "annotations": [{"image_id": n, "caption": f"no {n}"} for n in range(50)]})
    path = write(tmp_path, text[: int(len(text) * keep)], "captions.json")
    with pytest.raises(
        DataError, match=r"captions.json, line 1, column \d+: the JSON ends too early; copy or download the file again"
    ):
        read("coco", path)


def test_invalid_json_is_refused_with_the_place(tmp_path):
    text = '{"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2 "file_name": "2.jpg"}], "annotations": []' + " " * 100
    with pytest.raises(
        DataError, match=r"captions.json, line 1, column 55: not valid JSON: a comma or a closing bracket is"
    ):
        read("coco", write(tmp_path, text + "}", "captions.json"))
    with pytest.raises(DataError, match=r"captions.json, line 1, column 1: not JSON; check params.data.format"):
        read("coco", write(tmp_path, HEADER, "captions.json"))
    for text in ('{"images": [}', "[1, 2", '"text"', "{1: 2}", '{"images": [[' + "[" * 100_000, '{"images": []} x'):
        with pytest.raises(
            DataError, match=r"captions.json.*: (not valid JSON|the JSON ends too early|not in COCO's layout)"
        ):
            read("coco", write(tmp_path, text, "captions.json"))


def test_an_invalid_json_line_affects_itself_only(tmp_path):
    entries = table(tmp_path, '{"image": "a.jpg", "caption": "x"}\n{"image": \n[]\n{"image": "b.jpg"}\n', "c.jsonl")
    assert kept(entries) == [("a.jpg", "x", None)]
    assert [(line, reason.split(":")[0].split(";")[0]) for line, _, reason in skipped(entries)] == [
        (2, "not valid JSON"),
        (3, "not a JSON object"),
        (4, "no key caption"),
    ]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("coco", '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "annotations": []}'),
        ("karpathy", '{"images": [{"filename": "a.jpg", "split": "val", "split": "test", "sentences": []}]}'),
        ("table", '[{"image": "a.jpg", "caption": "x", "caption": "y"}]'),
    ],
)
def test_a_json_file_with_a_repeated_key_is_refused(tmp_path, format, text):
    with pytest.raises(DataError, match=r"a.json: not valid JSON: the key '\w+' occurs 2 times in one object"):
        read(format, write(tmp_path, text, "a.json"))


def test_a_repeated_key_in_json_lines_or_beside_an_image_is_skipped(tmp_path):
    twice = '{"image": "a.jpg", "caption": "x", "caption": "y"}\n'
    reason = (
        "not valid JSON: the key 'caption' occurs 2 times in one object; keep one (in captions files: merge their "
        "values)"
    )
    assert skipped(table(tmp_path, twice, "c.jsonl")) == [(1, "", reason)]
    write(tmp_path, b"", "images/a.jpg")
    write(tmp_path, twice, "images/a.json")
    assert skipped(read("folder", tmp_path / "images")) == [(1, "a.jpg", reason)]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('[\n{"image": "a.jpg", "caption": "x"},\n]', "line 2, column 35", "trailing comma before ]; remove it"),
        ('[{"image": "a.jpg", "caption": "x",}]', "line 1, column 35", "trailing comma before }; remove it"),
        ('[{"image": "a.jpg", # c\n"caption": "x"}]', "line 1, column 21", "JSON has no comments; remove them"),
        ('[{"image": "a.jpg" "caption": "x"}]', "line 1, column 20", "a comma or a closing bracket is missing before"),
        ('[{"image": "a.jpg", caption: "x"}]', "line 1, column 21", "a key in double quotes is missing before caption"),
        ('[{"image": "a.jpg", "caption" "x"}]', "line 1, column 31", "a colon is missing before"),
        ('[{"image": "a.jpg", "caption": x}]', "line 1, column 32", "a value is missing before x}]"),
        ('[{"image": "a.jpg", "caption": "x"}]]', "line 1, column 37", "unexpected text after the end: ]"),
        ('[{"image": "a.jpg", "caption": "x"}],\n', "line 1, column 37", "unexpected text after the end: ,"),
    ],
)
def test_a_mistake_in_json_is_named_in_words_with_its_place(tmp_path, text, place, words):
    path = write(tmp_path, text, "a.json")
    with pytest.raises(DataError, match=re.escape(f"a.json, {place}: not valid JSON: {words}")):
        read("table", path)
    with pytest.raises(DataError, match=re.escape(f"a.json, {place}: not valid JSON: {words}")):
        read_reference_file(path)


def test_detection_names_the_place_of_a_comment_in_json(tmp_path):
    path = write(tmp_path, '// c\n[{"image": "a.jpg", "caption": "x"}]', "captions.json")
    for place in (tmp_path, path):
        with pytest.raises(DataError, match=r"captions.json, line 1, column 1: not valid JSON: JSON has no comments"):
            detect(place)
    with pytest.raises(DataError, match=r"captions.json, line 1, column 1: not valid JSON: JSON has no comments"):
        read("table", path)


def test_json_lines_in_a_json_file_are_refused_with_the_suffix_that_they_need(tmp_path):
    path = write(tmp_path, '{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg", "caption": "y"}\n', "a.json")
    with pytest.raises(DataError, match=rf"a.json, line 2, column 1: .*; {ONE_PER_LINE}"):
        read("table", path)


def test_objects_over_several_lines_are_refused_with_the_command_that_makes_json_lines(tmp_path):
    objects = "".join(json.dumps({"image": name, "caption": "x"}, indent=2) + "\n" for name in ("a.jpg", "b.jpg"))
    with pytest.raises(DataError, match=rf"a.json, line 5, column 1: .*; {ONE_PER_LINE}"):
        read("table", write(tmp_path, objects, "a.json"))
    lines = write(tmp_path, objects, "a.jsonl")
    for reader in (lambda: detect(tmp_path), lambda: read_reference_file(lines)):
        with pytest.raises(DataError, match=rf"a.jsonl, line 1: .*ends too early; {ONE_PER_LINE}"):
            reader()


@pytest.mark.parametrize("end", ["", "{", '"a.j', '{"image"', '{"image": tr', '{"image": "\\u00', "1."])
def test_json_that_ends_too_early_is_said_to(tmp_path, end):
    path = write(tmp_path, '[{"image": "a.jpg", "caption": "x"}, ' + end, "a.json")
    for reader in (lambda: read("table", path), lambda: read_reference_file(path)):
        with pytest.raises(DataError, match=r"a.json, line 1, column \d+: the JSON ends too early; copy or download"):
            reader()


# Names

LEAVES = "the image path leads outside the image folder"
ABSOLUTE = "the image path is absolute; make it relative to params.data.images"
ADDRESS = "the image name is an address; download the images and name their files"
OUTSIDE = {
    "../a.jpg": LEAVES,
    "x/../../a.jpg": LEAVES,
    "/etc/passwd": ABSOLUTE,
    "//server/share/a.jpg": ABSOLUTE,
    "\\\\server\\share\\a.jpg": ABSOLUTE,
    "..\\a.jpg": LEAVES,
    "C:\\a.jpg": ABSOLUTE,
    "c:a.jpg": ABSOLUTE,
    "C:/a.jpg": ABSOLUTE,
    "a/..": LEAVES,
    "..": LEAVES,
    "https://example.org/a.jpg": ADDRESS,
    "s3://bucket/a.jpg": ADDRESS,
    ".": LEAVES,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_outside_the_image_folder_is_skipped_by_every_reader(tmp_path, name):
    token = f"{name}#0\tx\n"
    image = {"id": 1, "file_name": name}
    files = {
        "table": write(tmp_path, json.dumps({"image": name, "caption": "x"}), "c.jsonl"),
        "flickr8k": write(tmp_path, token, "Flickr8k.token.txt"),
        "flickr30k": write(tmp_path, f"image_name| comment_number| comment\n{name}| 0| x\n", "results.csv"),
        "coco": write(
            tmp_path, json.dumps({"images": [image], "annotations": [{"image_id": 1, "caption": "x"}]}), "captions.json"
        ),
        "karpathy": write(
            tmp_path,
            json.dumps({"images": [{"filename": name, "split": "val", "sentences": [{"raw": "x"}]}]}),
            "dataset_x.json",
        ),
        "folder": write(tmp_path, json.dumps({"file_name": name, "text": "x"}), "hf/metadata.jsonl").parent,
    }
    for format, path in files.items():
        entries = read(format, path)
        assert entries.captions == [], format
        assert [one.reason for one in entries.skipped] == [OUTSIDE[name]], format


def test_a_name_that_leads_into_an_archive_is_skipped(tmp_path):
    entries = table(tmp_path, HEADER + "secret.zip::a.jpg,x\n")
    assert skipped(entries) == [
        (2, "secret.zip::a.jpg", "the image name is a path into an archive; use the name inside the archive alone")
    ]


def test_windows_and_dotted_names_are_normalized(tmp_path):
    entries = table(tmp_path, HEADER + "sub\\a.jpg,x\n./sub/a.jpg,y\nsub//a.jpg,z\n")
    assert {row.image for row in entries.captions} == {"sub/a.jpg"}


@pytest.mark.parametrize("split", ["dev", "Validation", " VAL ", "valid"])
def test_usual_names_of_splits(tmp_path, split):
    assert kept(table(tmp_path, f"image,caption,split\na.jpg,x,{split}\n")) == [("a.jpg", "x", "val")]


def test_an_unknown_split_is_skipped(tmp_path):
    entries = table(tmp_path, "image,caption,split\na.jpg,x,fold3\nb.jpg,y,\n")
    assert kept(entries) == [("b.jpg", "y", None)]
    assert skipped(entries) == [(2, "a.jpg", "split must be one of train, val, test, got 'fold3'")]
