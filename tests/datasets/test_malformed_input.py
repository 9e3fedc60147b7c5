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
REMEDY = "save the file as UTF-8 or, of a dataset, correct params.data.encoding"
SPLITS = "image,caption,split\n"
TO_QUOTE = 'quote captions with commas, close each quote, and write one in them as ""'
CUT = "it ends too early; copy or download the file again"
TWICE = "the key 'caption' occurs 2 times in one object; keep one, with the values of all"
PER_LINE = "JSON lines have one object per line"
NO_WORD, EMPTY = "the caption has no word", "the caption is empty"


def table(folder, text, name="captions.csv", encoding="utf-8"):
    return read("table", write(folder, text, name, encoding))


def captions_of(entries):
    return [row.caption for row in entries.captions]


def notes_of(entries):
    return [note.partition(": ")[2] for note in entries.notes]


TABLES = {
    "a NUL as the second byte": (
        "a\0.jpg,one\nb.jpg,two\n",
        ["two"],
        [(1, "a\ufffd.jpg", r"'\x00' is no character (a NUL or half of a surrogate pair)")],
    ),
    # Quotes and delimiters
    "quotes inside captions": (
        HEADER + 'a.jpg,a "big" dog\nb.jpg,"big" dogs\nc.jpg,\'single\', \u201ccurly\u201d, \u00abguillemets\u00bb\n'
        'd.jpg,a 12" ruler\ne.jpg,"doubled ""quotes"""\n',
        ['a "big" dog', '"big" dogs', "'single', “curly”, «guillemets»", 'a 12" ruler', 'doubled "quotes"'],
        [],
    ),
    "unclosed quotes": (
        HEADER + 'a.jpg,"a dog\nb.jpg,a cat\nc.jpg,"a fox"\nd.jpg,"a hen\n',
        ['"a dog', "a cat", "a fox", '"a hen'],
        [],
    ),
    "a thousand unclosed quotes": (
        HEADER + "".join(f'{n}.jpg,"a dog {n}\n' for n in range(1000)),
        [f'"a dog {n}' for n in range(1000)],
        [],
    ),
    "two stray quotes": (
        HEADER + 'a.jpg,"a dog\nb.jpg,a cat",too many\nc.jpg,a fox\n',
        ['"a dog', "a fox"],
        [(3, "b.jpg", f"3 fields instead of 2; {TO_QUOTE}")],
    ),
    "spaces before quotes": (
        'image, caption, split\na.jpg, "a dog, running", val\n"b.jpg",  "a ""cat""\nruns", val\n',
        ["a dog, running", 'a "cat" runs'],
        [],
    ),
    "an unclosed quote after a space": (
        HEADER + 'a.jpg, "a dog\nb.jpg, a cat\nc.jpg, "big" dogs\nd.jpg, "a hen"\n',
        ['"a dog', "a cat", '"big" dogs', "a hen"],
        [],
    ),
    "unclosed quotes in a table with all fields in quotes": (
        '"split","image","caption"\n"val","a.jpg","a dog\n"val","b.jpg","a cat"\n"val","c.jpg","a "big", "red" dog"\n',
        ['"a dog', "a cat", '"a "big", "red" dog"'],
        [],
    ),
    "too few or too many fields": (
        SPLITS + 'a.jpg,one, two,train\nb.jpg,x,train\nc.jpg\n\nd.jpg,"a \\"big\\" dog, runs",val\n',
        ["x"],
        [
            (2, "a.jpg", f"4 fields instead of 3; {TO_QUOTE}"),
            (4, "c.jpg", "1 field instead of 3; complete the row or delete it, and close each quote"),
            (6, "d.jpg", f"4 fields instead of 3; {TO_QUOTE}"),
        ],
    ),
    "rows of empty fields": (
        SPLITS + 'a.jpg,a dog,train\n,,\n , ,\n"",,\nb.jpg,,val\n',
        ["a dog"],
        [(6, "b.jpg", EMPTY)],
    ),
    # Headers
    "columns that describe captions": (
        "image,caption_id,caption_text,text_length\na.jpg,17,a dog,5\nb.jpg,18,a cat,5\n",
        ["a dog", "a cat"],
        [],
    ),
    # Encodings
    "invalid bytes": (
        b"image,caption\na.jpg,one\nb.jpg,t\xffwo\nc\xfe.jpg,three\nd.jpg,\xe2\x82\ne.jpg,five\n",
        ["one", "five"],
        [
            (
                line,
                image,
                f"byte 0x{byte} cannot be decoded; {REMEDY}",
            )
            for line, image, byte in ((3, "b.jpg", "ff"), (4, "c\ufffd.jpg", "fe"), (5, "d.jpg", "e2"))
        ],
    ),
    "a NUL character": (
        HEADER + "a.jpg,one\nb.jpg,tw\0o\nc\0.jpg,three\nd\x1f.jpg,four\n",
        ["one"],
        [
            (3, "b.jpg", r"'\x00' is no character (a NUL or half of a surrogate pair)"),
            (4, "c\ufffd.jpg", r"'\x00' is no character (a NUL or half of a surrogate pair)"),
            (5, "d .jpg", "the image name holds a control character"),
        ],
    ),
    "separators of Unicode": (
        HEADER + "a.jpg,one\u2028two\x0cthree\x0bfour\u2029five\x85six\x1cseven\nb.jpg,x\n",
        ["one two three four five six seven", "x"],
        [],
    ),
    "right-to-left text and emoji sequences": (
        HEADER
        + "a.jpg,\u0643\u0644\nb.jpg,\u200f\u0643\u202c\nc.jpg,a \U0001f468\u200d\U0001f469\U0001f44b\U0001f3fd\n",
        ["\u0643\u0644", "\u200f\u0643\u202c", "a \U0001f468\u200d\U0001f469\U0001f44b\U0001f3fd"],
        [],
    ),
    # Unusual captions
    "markers of missing values, and numbers": (
        HEADER
        + "a.jpg,NA\nb.jpg,None\nc.jpg,null\nd.jpg,NaN\ne.jpg,0012\nf.jpg,1e5\ng.jpg,TRUE\nh.jpg,-\ni.jpg,=1+1\n",
        ["NA", "None", "null", "NaN", "0012", "1e5", "TRUE", "=1+1"],
        [(9, "h.jpg", NO_WORD)],
    ),
    "captions without a word": (
        HEADER + "a.jpg,\nb.jpg,   \nc.jpg,?!\nd.jpg,\u3000\ne.jpg,\u3002\nf.jpg,\U0001f415\ng.jpg,_\n",
        [],
        [
            (line, f"{letter}.jpg", EMPTY if letter in "abd" else NO_WORD)
            for line, letter in enumerate("abcdefg", start=2)
        ],
    ),
    "very long captions": (
        HEADER + f'a.jpg,{" ".join(["dog"] * 10_000)}\nb.jpg,"{"a" * 200_000}"\n',
        [" ".join(["dog"] * 10_000), "a" * 200_000],
        [],
    ),
    "the same row twice": (HEADER + "a.jpg,a dog\na.jpg,a dog\n", ["a dog", "a dog"], []),
    "an archive's name": (
        HEADER + "secret.zip::a.jpg,x\nb::a.jpg,y\n",
        ["y"],
        [
            (2, "secret.zip::a.jpg", "the image name is a path into an archive; use the name inside the archive alone"),
        ],
    ),
    "an unknown split": (
        SPLITS + "a.jpg,x,fold3\nb.jpg,y,\n",
        ["y"],
        [(2, "a.jpg", "split must be one of train, val, test, got 'fold3'")],
    ),
    # JSON lines
    "values that are not text": (
        "".join(
            f'{{"image": "a.jpg", "caption": {value}}}\n'
            for value in ("12", "null", "true", '{"a": 1}', "[]", '[["x"]]')
        ),
        [],
        [
            (line, "a.jpg", "the image has no caption" if line == 5 else "the caption is not text")
            for line in range(1, 7)
        ],
    ),
    "half a surrogate pair": (
        '{"image": "a.jpg", "caption": "\\ud83d"}\n{"image": "b.jpg", "caption": "\\ud83d\\udc15 dog"}',
        ["\U0001f415 dog"],
        [(1, "a.jpg", r"'\ud83d' is no character (a NUL or half of a surrogate pair)")],
    ),
    "lines that are no objects": (
        '{"image": "a.jpg", "caption": "x"}\n{"image": \n[]\n{"image": "b.jpg", "caption": "x", "caption": "y"}\n',
        ["x"],
        [
            (2, "", f"not valid JSON in line 2, column 11: {CUT}; {PER_LINE}"),
            (3, "", "not a JSON object"),
            (4, "", f"not valid JSON: {TWICE}; {PER_LINE}"),
        ],
    ),
}
"""The captions that are kept, and the line, the image and the reason of each row that is skipped."""


@pytest.mark.parametrize("case", TABLES)
def test_each_row_of_a_table_is_kept_or_skipped_with_the_reason(tmp_path, case):
    content, captions, reasons = TABLES[case]
    entries = table(tmp_path, content, "c.jsonl" if content[:1] == "{" else "captions.csv")
    assert captions_of(entries) == captions
    assert skipped(entries) == reasons


SWALLOWED = {
    "image first": (HEADER + 'a.jpg,"a dog\nb.jpg,a cat"\nc.jpg,a fox\n', ['"a dog', 'a cat"', "a fox"]),
    "image between": (
        'split,image,caption\nval,a.jpg,"a dog\nval,b.jpg,a cat"\nval,c.jpg,a fox\n',
        ['"a dog', 'a cat"', "a fox"],
    ),
    "image last": (
        'caption,split,image\n"a dog,val,a.jpg\na cat",val,b.jpg\na fox,val,c.jpg\n',
        ['"a dog', 'a cat"', "a fox"],
    ),
    "numbers for images": (
        'image_id,caption\n1,"a dog runs\n2,two dogs\n3,a screen of 7"\n4,x\n',
        ['"a dog runs', "two dogs", 'a screen of 7"', "x"],
    ),
    "numbers of images last": (
        'caption,split,image_id\n"a dog,val,1\na cat",val,002\na fox,val,3\n',
        ['"a dog', 'a cat"', "a fox"],
    ),
    "names without suffix": ('image,caption\nimg_1,"a dog\nimg_12,a cat"\n', ['"a dog', 'a cat"']),
    "a line that reads as a row": ('image_id,caption\n1,"dogs\n2, perhaps 3"\n', ['"dogs', 'perhaps 3"']),
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_an_unclosed_quote_costs_no_other_row_and_is_noted_with_its_line(tmp_path, case):
    content, captions = SWALLOWED[case]
    entries = table(tmp_path, content)
    assert captions_of(entries) == captions
    assert notes_of(entries) == ["1 row has a quote that is not closed, the first in line 2; the quote is kept as text"]


@pytest.mark.parametrize(
    "content",
    [
        'image_id,caption\n1,"dogs:\n2 or 3, perhaps 4"\n',
        'image_id,caption\n1,"dogs:\n2"\n',
        'image_id,caption,split\n1,"dogs:\n2, perhaps 3",val\n',
        'image,caption\na.jpg,"dogs:\n2, perhaps 3\n4, no"\n',
        'image,caption\ndog,"dogs:\ncat, perhaps"\n',
    ],
)
def test_a_quoted_caption_may_have_lines_that_start_with_a_number(tmp_path, content):
    entries = table(tmp_path, content)
    assert captions_of(entries) == [" ".join(content.split('"')[1].split())]
    assert not entries.notes


def test_lines_are_counted_over_quoted_captions(tmp_path):
    entries = table(tmp_path, HEADER + 'a.jpg,"a dog\nand a ""cat""\n\nrun"\nb.jpg,x\n')
    assert kept(entries) == [("a.jpg", 'a dog and a "cat" run', None), ("b.jpg", "x", None)]
    assert [row.line for row in entries.captions] == [2, 6]


def test_unquoted_commas_are_kept_in_the_last_column(tmp_path):
    entries = table(tmp_path, HEADER + "a.jpg,one, two, three\nb.jpg,four\n")
    assert captions_of(entries) == ["one, two, three", "four"]
    assert notes_of(entries) == ["1 caption was read to the end of the line, because of a ',' outside of closed quotes"]


# Headers


@pytest.mark.parametrize("mark", ";,|\t^")
def test_a_first_line_that_names_the_delimiter_is_followed(tmp_path, mark):
    entries = table(tmp_path, f"sep={mark}\r\nimage{mark}caption\r\na.jpg{mark}a dog\r\n")
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert entries.captions[0].line == 3


def test_comments_above_the_header_are_skipped_with_a_note(tmp_path):
    entries = table(tmp_path, "# made in 2024, by hand\n#hand\n#,image,caption\n1,a.jpg,# a sign\n# 2,#b.jpg,a dog\n")
    assert kept(entries) == [("a.jpg", "# a sign", None), ("#b.jpg", "a dog", None)]
    assert notes_of(entries) == ["2 lines that start with # are above the header and are not read"]


@pytest.mark.parametrize("start", ["#image,caption\n", "# image,caption\n", "# by hand\n# Image, Caption\n"])
def test_a_header_may_start_with_a_number_sign(tmp_path, start):
    entries = table(tmp_path, start + "a.jpg,a dog\n")
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert len(entries.notes) == start.count("by hand")
    assert kept(table(tmp_path, start + HEADER + "a.jpg,a dog\n")) == kept(entries)


def test_a_file_without_header_is_read_with_a_note(tmp_path):
    entries = table(tmp_path, "#a.jpg,a dog, running; fast\nb.jpg,a cat\n")
    assert kept(entries) == [("#a.jpg", "a dog, running; fast", None), ("b.jpg", "a cat", None)]
    assert "has no header; its columns are read as image, caption" in entries.notes[0]
    with_splits = table(tmp_path, "a.jpg\ta dog\ttrain\nb.jpg\ta cat\tval\n", "c.tsv")
    assert kept(with_splits) == [("a.jpg", "a dog", "train"), ("b.jpg", "a cat", "val")]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("image caption\na.jpg a dog\n", {}, "line 1: one column, 'image caption'; separate the image and the caption"),
        ("a.jpg a dog\nb.jpg a cat\n", {}, "line 1: one column, 'a.jpg a dog'; separate the image and the caption by"),
        ("caption,image\na.jpg,a dog\nb.jpg,a cat\n", {}, "line 1: the header's names are swapped"),
        ("image,words\na.jpg,x\n", {}, "line 1: no column caption; the header is ['image', 'words']"),
        (
            HEADER + "a,b\n",
            {"image_column": "photo", "split_column": "part"},
            "no column photo and part; the header is ['image', 'caption']; rename them or, for a dataset, name the "
            "columns with params.data.image_column and split_column",
        ),
        (
            HEADER + "a,b\n",
            {"caption_column": "image"},
            "the column image holds the images and cannot hold the captions; name another one in params.data.caption",
        ),
        (HEADER, {}, ": holds a header and no rows"),
    ],
)
def test_a_table_without_usable_columns_is_refused(tmp_path, content, options, message):
    path = write(tmp_path, content)
    for reader in (lambda: read("table", path, **options), lambda: detect(tmp_path, **options)):
        with pytest.raises(DataError, match=rf"captions.csv.*{re.escape(message)}"):
            reader()


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
    assert captions_of(read("table", path)) == ["a dog"]
    assert captions_of(read("table", path, encoding="latin-1")) == ["un caf\u00e9", "a dog"]
    for name in ("klingon", "rot13"):
        with pytest.raises(ParamsError, match=r"params.data.encoding"):
            read("table", path, encoding=name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_row(tmp_path, end):
    entries = table(tmp_path, end.join(["image,caption", "a.jpg,one", 'b.jpg,"two"', "", "c.jpg,three", ""]))
    assert captions_of(entries) == ["one", "two", "three"]
    assert [row.line for row in entries.captions] == [2, 3, 5]
    token = write(tmp_path, end.join(["a.jpg#0\tone", "b.jpg#0\ttwo"]), "Flickr8k.token.txt")
    assert captions_of(read("flickr8k", token)) == ["one", "two"]


def test_captions_and_names_are_normalized_to_nfc(tmp_path):
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    entries = table(tmp_path, HEADER + f"{composed}.jpg,{apart}\n{apart}.jpg,{composed}\n")
    assert kept(entries) == [(f"{composed}.jpg", composed, None)] * 2


# Files


@pytest.mark.parametrize("format", ["table", "flickr8k", "flickr30k", "coco", "karpathy"])
def test_an_empty_file_a_folder_and_a_missing_file_are_refused(tmp_path, format):
    (tmp_path / "folder.csv").mkdir()
    places = [(write(tmp_path, b"", "empty.csv"), "the file is empty"), (tmp_path / "no.csv", "no such file")]
    for path, message in (*places, (tmp_path / "folder.csv", "Is a directory|holds neither|holds no ")):
        with pytest.raises(DataError, match=rf"{path}: (cannot be read: .*)?({message})"):
            read(format, path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (b"<!DOCTYPE html><title>404</title>", "a web page, not the file itself; download it again"),
        (b"PK\x03\x04xl/workbook.xml", "a zip archive or an Excel file; save the captions as CSV"),
        (b"PAR1\x15\x04", "a Parquet file; save the captions as CSV"),
        (gzip.compress(b"image,caption\na.jpg,x\n", mtime=0), "compressed with gzip; unpack it with `gunzip < FILE"),
    ],
)
@pytest.mark.parametrize("name", ["captions.csv", "captions.json", "rows.jsonl", "rows.parquet", "captions.csv.gz"])
def test_a_file_that_is_no_text_is_named_with_what_it_is(tmp_path, content, words, name):
    path = write(tmp_path, content, name)
    for reader in (lambda: detect(tmp_path), lambda: detect(path), lambda: read_reference_file(path)):
        with pytest.raises(DataError, match=rf"{name}: {re.escape(words)}"):
            reader()


def test_a_pipe_instead_of_a_captions_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "captions.csv")
    os.mkfifo(tmp_path / "captions.json")
    for place in (tmp_path, tmp_path / "captions.csv"):
        with pytest.raises(DataError, match=r"captions.csv: not a regular file; save the captions in one"):
            detect(place)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (
            '[\n{"image": "a.jpg", "caption": "x"},\n]',
            r"line (3, column 1|2, column 35)",  # the second since Python 3.13
            r"(Expecting value at ']'|Illegal trailing comma before end of array at ',')",
        ),
        ('[{"image": "a.jpg", # c\n"caption": "x"}]', "line 1, column 21", "Expecting .* at '#'"),
        ('// c\n[{"image": "a.jpg", "caption": "x"}]', "line 1, column 1", "Expecting value at '//'"),
        ("image,caption\na.jpg,x\n", "line 1, column 1", "Expecting value at 'image,caption'"),
        ('[{"image": "a.jpg" "caption": "x"}]', "line 1, column 20", "Expecting ',' delimiter at '\"caption\":'"),
        ('[{"image": "a.jpg", "caption": "x"}]]', "line 1, column 37", "Extra data at ']'"),
        *(
            ('[{"image": "a.jpg", "caption": "x"}, ' + end, r"line 1, column \d+", CUT)
            for end in ("", "{", '"a.j', '{"image"', '{"image": "a.jpg", ')
        ),
    ],
)
def test_a_mistake_in_json_is_named_with_its_place(tmp_path, text, place, words):
    path = write(tmp_path, text, "captions.json")
    readers = [lambda: detect(tmp_path), lambda: read_reference_file(path)]
    for reader in (*readers, *(lambda one=format: read(one, path) for format in ("table", "coco", "karpathy"))):
        with pytest.raises(DataError, match=rf"captions.json: not valid JSON in {place}: {words}"):
            reader()


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', '{"images": []}', '{"images": [[' + "[" * 100_000])
def test_other_json_is_refused_as_coco(tmp_path, text):
    with pytest.raises(DataError, match=r"captions.json: (not valid JSON|not in COCO's layout)"):
        read("coco", write(tmp_path, text, "captions.json"))


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("coco", '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "annotations": []}'),
        ("karpathy", '{"images": [{"filename": "a.jpg", "split": "val", "split": "test", "sentences": []}]}'),
        ("table", '[{"image": "a.jpg", "caption": "x", "caption": "y"}]'),
        ("table", '{"a.jpg": ["a dog"], "b.jpg": ["a cat"], "a.jpg": ["a wet dog"]}'),
    ],
)
def test_a_json_file_with_a_repeated_key_is_refused(tmp_path, format, text):
    with pytest.raises(DataError, match=r"a.json: not valid JSON: the key '[\w.]+' occurs 2 times in one object; keep"):
        read(format, write(tmp_path, text, "a.json"))


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_json_lines_may_be_in_a_json_file(tmp_path, end):
    lines = ['{"image": "a.jpg", "caption": "x"}', "", '{"image": "b.jpg", "caption": "y"}', ""]
    path = write(tmp_path, end.join(lines), "a.json")
    assert detect(tmp_path).captions == path
    assert captions_of(read("table", path)) == ["x", "y"]
    assert read_reference_file(path).captions == {"a.jpg": ("x",), "b.jpg": ("y",)}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_objects_over_several_lines_are_refused(tmp_path, name):
    objects = "".join(json.dumps({"image": name, "caption": "x"}, indent=2) + "\n" for name in ("a.jpg", "b.jpg"))
    path = write(tmp_path, objects, name)
    for reader in (lambda: detect(tmp_path), lambda: read_reference_file(path)):
        with pytest.raises(DataError, match=rf"{name}.*: not valid JSON in line \d, column \d: "):
            reader()


# Names

LEAVES = "the image path leads outside the image folder"
ABSOLUTE = "the image path is absolute; make it relative to params.data.images"
ADDRESS = "the image name is an address; download the images and name their files"
EMBEDDED = "the image is embedded; save it as a file, and give its name instead"
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
    "data:image/jpeg;base64,/9j/4AAQSk": EMBEDDED,
    "/9j/4AAQSk": EMBEDDED,
    "iVBORw0KGgoAAA": EMBEDDED,
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


def test_windows_and_dotted_names_are_normalized(tmp_path):
    entries = table(tmp_path, HEADER + "sub\\a.jpg,x\n./sub/a.jpg,y\nsub//a.jpg,z\n")
    assert {row.image for row in entries.captions} == {"sub/a.jpg"}


@pytest.mark.parametrize("split", ["dev", "Validation", " VAL ", "valid"])
def test_usual_names_of_splits(tmp_path, split):
    assert kept(table(tmp_path, f"image,caption,split\na.jpg,x,{split}\n")) == [("a.jpg", "x", "val")]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "auto"])
@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", HEADER + "a.jpg,one\n"), ("a.json", '[{"image": "a.jpg", "caption": "one"}]')]
)
def test_a_byte_order_mark_is_read_in_any_name_of_utf_8(tmp_path, encoding, name, content):
    path = write(tmp_path, content, name, encoding="utf-8-sig")
    assert kept(read("table", path, encoding=encoding)) == [("a.jpg", "one", None)]
