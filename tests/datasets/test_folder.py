"""The format `folder`."""

import os
import unicodedata

import pytest
from reading import detect, kept, pack, read, skipped, write

from pipeline.datasets.folder import split_of
from pipeline.errors import DataError, ParamsError


def test_each_line_of_a_text_file_is_a_caption(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "c.jpg", "val/d.webp", "e.jpg"):
        write(tmp_path, b"image", name)
    write(tmp_path, "a red fox\n\na fox in snow\n", "a.txt")
    write(tmp_path, "\ufeffa dog", "sub/b.txt")
    write(tmp_path, "a cat", "val/d.caption")
    write(tmp_path, "\n", "e.txt")
    write(tmp_path, "nobody", "lost.txt")
    entries = read("folder", tmp_path)
    assert kept(entries) == [
        ("a.jpg", "a red fox", None),
        ("a.jpg", "a fox in snow", None),
        ("sub/b.PNG", "a dog", None),
        ("val/d.webp", "a cat", "val"),
    ]
    assert skipped(entries) == [
        (0, "c.jpg", "the image has no caption"),
        (1, "e.jpg", "the caption is empty"),
        (0, "lost.txt", "no image is beside the text"),
    ]


def test_a_text_may_be_named_after_the_image_file(tmp_path):
    for name in ("a.jpg", "b.png.jpg"):
        write(tmp_path, b"image", name)
    write(tmp_path, "a dog", "a.jpg.txt")
    write(tmp_path, "a cat", "b.png.txt")
    assert detect(tmp_path).format == "folder"
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.jpg", "a dog", None), ("b.png.jpg", "a cat", None)]
    assert not entries.skipped


def test_a_note_counts_other_texts_beside_an_image(tmp_path):
    for name, content in (("a.png", b""), ("a.txt", "a dog"), ("a.caption", "a cat"), ("a.json", "{}")):
        write(tmp_path, content, name)
    write(tmp_path, b"", "b.png")
    write(tmp_path, '{"caption": "a cow"}', "b.json")
    write(tmp_path, "{}", "of_no_image.json")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.png", "a dog", None), ("b.png", "a cow", None)]
    assert entries.notes == [
        f"{tmp_path}: not read, because another text is beside the same image: 1 .caption, 1 .json"
    ]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_texts_in_archives(tmp_path, kind):
    files = {"./00.jpg": b"one", "00.txt": b"a dog", "01.jpg": b"two", "01.txt": b"a cat", "01.json": b"{}"}
    for shard in ("train", "val"):
        path = pack(tmp_path / f"{shard}.{kind}", files)
    assert (detect(tmp_path).format, detect(path).format) == ("folder", "folder")
    entries = read("folder", tmp_path)
    assert kept(entries) == [
        (f"{shard}.{kind}/{name}", caption, shard)
        for shard in ("train", "val")
        for name, caption in (("00.jpg", "a dog"), ("01.jpg", "a cat"))
    ]
    assert entries.skipped == []


@pytest.mark.parametrize("archive", ["test.zip", "test-00000.tar"])
def test_files_and_archives_are_read_together_with_a_note(tmp_path, archive):
    for name, content in {"train/00.jpg": b"one", "train/00.txt": "a dog"}.items():
        write(tmp_path, content, name)
    pack(tmp_path / archive, {"00.jpg": b"two", "00.txt": b"a cat"})
    pack(tmp_path / "train.zip", {"00.jpg": b"one", "00.txt": b"a dog"})  # it was unpacked
    entries = read("folder", tmp_path)
    assert kept(entries) == [(f"{archive}/00.jpg", "a cat", "test"), ("train/00.jpg", "a dog", "train")]
    shown = f"as files, such as train/00.jpg, and from archives, such as {archive}/00.jpg"
    assert entries.notes == [f"{tmp_path}: the images are read {shown}"]


def test_images_that_share_a_text_are_counted(tmp_path):
    for name, content in {"a.jpg": b"one", "a.webp": b"one", "a.txt": "a dog"}.items():
        write(tmp_path, content, name)
    shared = "1 image shares a text with another image of the same name"
    remedy = "they may be in different splits: keep one file of each"
    assert read("folder", tmp_path).notes == [f"{tmp_path}: {shared}; {remedy}"]


@pytest.mark.parametrize(
    ("shard", "split"),
    [
        ("train-00000-of-00002.tar", "train"),
        ("cc3m-validation-00000-of-00001.tar", "val"),
        ("my-cc-test_0001.zip", "test"),
        ("test.zip", "test"),
        ("crash-test.zip", None),
        ("pretrain-0001.tar", None),
        ("train-data.tar", None),
    ],
)
def test_shards_are_named_after_their_split(shard, split):
    assert split_of(f"{shard}/a.jpg") == split


def test_an_archive_with_a_table_of_captions_is_refused_with_the_advice_to_unpack_it(tmp_path):
    path = pack(tmp_path / "archive.zip", {"Images/a.jpg": b"one", "captions.txt": b"image,caption\na.jpg,a dog\n"})
    message = "no image has a text beside it, and there is no metadata.csv or metadata.jsonl; unpack an archive that"
    for reader in (lambda: read("folder", path), lambda: detect(tmp_path)):
        with pytest.raises(DataError, match=message):
            reader()


def test_captions_in_json_files_of_shards(tmp_path):
    files = {
        **dict.fromkeys(("1.jpg", "2.jpg", "3.jpg"), b"image"),
        "1.json": b'{"captions": ["a dog", "a cat", 7]}',
        "2.json": b'{"caption": "json"}',
        "2.txt": b"a text goes before",
        "3.json": b'{"caption": "x", "caption": "y"}',
        "lost.json": b"{}",
    }
    for shard, split in (("train/train-00000.tar", "train"), ("val_01.tar", "val")):
        pack(tmp_path / split / shard, files)
        entries = read("folder", tmp_path / split)
        assert kept(entries) == [
            (f"{shard}/1.jpg", "a dog", split),
            (f"{shard}/1.jpg", "a cat", split),
            (f"{shard}/2.jpg", "a text goes before", split),
        ]
        assert [(image, reason.split(":")[0]) for _, image, reason in skipped(entries)] == [
            (f"{shard}/1.jpg", "the caption is not text"),
            (f"{shard}/3.jpg", "not valid JSON"),
        ]


def test_an_imagefolder_with_metadata_in_each_split(tmp_path):
    for name in ("train/1.jpg", "train/2.jpg", "test/1.jpg"):
        write(tmp_path, b"image", name)
    write(tmp_path, "file_name,text\n1.jpg,a dog\n", "train/metadata.csv")
    write(tmp_path, '{"file_name": "1.jpg", "text": "a cat"}\n', "test/metadata.jsonl")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("test/1.jpg", "a cat", "test"), ("train/1.jpg", "a dog", "train")]
    assert skipped(entries) == [(0, "train/2.jpg", "the image has no caption")]


def test_a_caption_beside_a_file_of_another_format_names_that_file(tmp_path):
    for name, content in {"a.jpg": b"x", "a.txt": "a dog", "b.jp2": b"x", "b.txt": "a cat"}.items():
        write(tmp_path, content, name)
    assert skipped(read("folder", tmp_path)) == [(0, "b.txt", "b.jp2 beside the text is not a file of a known format")]


@pytest.mark.parametrize("encoding", ["auto", "utf-8", "UTF-8", "utf8", "ascii"])
@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_invalid_bytes_in_a_text_are_skipped(tmp_path, encoding, name):
    write(tmp_path, b"image", "a.jpg")
    text = "un café" if name == "a.txt" else '{"caption": "un café"}'
    write(tmp_path, text, name, encoding="latin-1")
    assert skipped(read("folder", tmp_path, encoding=encoding)) == [
        (
            1,
            "a.jpg",
            "byte 0xe9 cannot be decoded; save the file as UTF-8 or, of a dataset, correct params.data.encoding",
        )
    ]
    assert kept(read("folder", tmp_path, encoding="latin-1")) == [("a.jpg", "un café", None)]


def test_a_text_that_ends_inside_a_character_is_skipped(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog".encode("utf-16")[:-1], "a.txt")
    ((line, image, reason),) = skipped(read("folder", tmp_path))
    assert (line, image, reason.split(":")[0]) == (1, "a.jpg", "its text cannot be decoded")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
            "a Git LFS pointer, not the file itself",
        ),
        ("{\\rtf1\\ansi a dog}", "a document with markup (RTF); save it as plain text"),
    ],
)
def test_a_text_that_is_no_text_is_skipped_with_the_remedy(tmp_path, content, reason):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, content, "a.txt")
    entries = read("folder", tmp_path)
    assert not entries.captions
    assert entries.skipped[0].reason.startswith(f"its text is {reason}")


def test_an_unknown_encoding_of_texts_is_refused(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog", "a.txt")
    with pytest.raises(ParamsError, match=r"params\.data\.encoding: unknown encoding: klingon"):
        read("folder", tmp_path, encoding="klingon")


def test_names_in_metadata_may_differ_in_case_and_accents(tmp_path):
    for name in (unicodedata.normalize("NFD", "caf\u00e9.jpg"), "B.JPG", "c.jpg"):
        write(tmp_path, b"image", name)
    write(tmp_path, "file_name,text\ncaf\u00e9.jpg,a dog\nb.jpg,a cat\n", "metadata.csv")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("caf\u00e9.jpg", "a dog", None), ("b.jpg", "a cat", None)]
    assert skipped(entries) == [(0, "c.jpg", "the image has no caption")]


def test_an_image_whose_row_is_skipped_is_skipped_once_under_its_full_name(tmp_path):
    for name in ("train/a.jpg", "train/b.jpg"):
        write(tmp_path, b"image", name)
    write(tmp_path, "file_name,text\na.jpg,a dog\nb.jpg,\n", "train/metadata.csv")
    assert skipped(read("folder", tmp_path)) == [(3, "train/b.jpg", "the caption is empty")]


def test_one_of_two_metadata_files_in_a_folder_is_read(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "file_name,text\na.jpg,a dog\n", "metadata.csv")
    write(tmp_path, '{"file_name": "a.jpg", "text": "a dog"}\n', "metadata.jsonl")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert entries.notes == [f"{tmp_path}/metadata.jsonl: not read, because metadata.csv is beside it"]


def test_a_damaged_archive_beside_images_is_noted(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog", "a.txt")
    write(tmp_path, b"damaged", "001.tar")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.jpg", "a dog", None)]
    (note,) = entries.notes
    assert note.startswith(f"{tmp_path}/001.tar: not read: ")


def test_a_folder_of_metadata_whose_name_is_not_utf8_is_skipped(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "file_name,text\na.jpg,a dog\n", "metadata.csv")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write(folder, "file_name,text\nb.jpg,a cat\n", "metadata.csv")
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert [one.reason for one in entries.skipped] == ["its name is not UTF-8; rename the file or folder"]


@pytest.mark.parametrize("table", [None, "metadata.csv"])
def test_an_image_file_whose_name_is_not_utf8_is_skipped_with_a_remedy(tmp_path, table):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog", "a.txt")
    for suffix in (b".jpg", b".txt"):
        (tmp_path / os.fsdecode(b"caf\xe9" + suffix)).write_bytes(b"a cat")
    if table:
        write(tmp_path, "file_name,text\na.jpg,a dog\n", table)
    entries = read("folder", tmp_path)
    assert kept(entries) == [("a.jpg", "a dog", None)]
    assert [one.reason for one in entries.skipped] == ["its name is not UTF-8; rename the file or folder"]
