"""The format `folder`."""

import tarfile
import zipfile

import pytest
from reading import kept, read, skipped, write

from pipeline.errors import ParamsError


def test_each_line_of_a_text_file_is_a_caption(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "c.jpg", "val/d.webp"):
        write(tmp_path, b"image", name)
    write(tmp_path, "a red fox\n\na fox in snow\n", "a.txt")
    write(tmp_path, "\ufeffa dog", "sub/b.txt")
    write(tmp_path, "a cat", "val/d.caption")
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
        (0, "lost.txt", "no image is beside the text"),
    ]


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
                    path = write(tmp_path / "loose", content, name)
                    out.add(path, f"./{name}")
    for path in (tmp_path / "loose").glob("*"):
        path.unlink()
    entries = read("folder", tmp_path)
    assert kept(entries) == [
        (f"train.{kind}/00.jpg", "a dog", "train"),
        (f"train.{kind}/01.jpg", "a cat", "train"),
        (f"val.{kind}/00.jpg", "a dog", "val"),
        (f"val.{kind}/01.jpg", "a cat", "val"),
    ]
    assert entries.skipped == []


def test_captions_in_json_files_of_shards(tmp_path):
    (tmp_path / "train").mkdir()
    for shard in ("train/train-00000.tar", "val_01.tar"):
        with tarfile.open(tmp_path / shard, "w") as out:
            for name, content in {
                "1.jpg": b"image",
                "1.json": b'{"captions": ["a dog", "a cat", 7]}',
                "2.jpg": b"image",
                "2.json": b'{"caption": "json"}',
                "2.txt": b"a text goes before",
                "3.jpg": b"image",
                "3.json": b"{",
                "lost.json": b"{}",
            }.items():
                out.add(write(tmp_path / "loose", content, name), name)
    for path in (tmp_path / "loose").glob("*"):
        path.unlink()
    entries = read("folder", tmp_path)
    val = "val_01.tar"
    assert kept(entries)[3:] == [
        (f"{val}/1.jpg", "a dog", "val"),
        (f"{val}/1.jpg", "a cat", "val"),
        (f"{val}/2.jpg", "a text goes before", "val"),
    ]
    assert [row.split for row in entries.captions[:3]] == ["train"] * 3
    assert [(image, reason.split(":")[0]) for _, image, reason in skipped(entries)[2:]] == [
        (f"{val}/1.jpg", "the caption is not text"),
        (f"{val}/3.jpg", "not valid JSON"),
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
    assert skipped(read("folder", tmp_path)) == [
        (0, "b.txt", "b.jp2 beside the text is in no image format that is read")
    ]


@pytest.mark.parametrize("encoding", ["auto", "utf-8", "UTF-8", "utf8", "ascii"])
@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_invalid_bytes_in_a_text_are_skipped(tmp_path, encoding, name):
    write(tmp_path, b"image", "a.jpg")
    text = "un café" if name == "a.txt" else '{"caption": "un café"}'
    write(tmp_path, text, name, encoding="latin-1")
    assert skipped(read("folder", tmp_path, encoding=encoding)) == [
        (1, "a.jpg", "not UTF-8: byte 0xe9; save the file as UTF-8 or set params.data.encoding")
    ]
    assert kept(read("folder", tmp_path, encoding="latin-1")) == [("a.jpg", "un café", None)]


def test_a_text_that_ends_inside_a_character_is_skipped(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog".encode("utf-16")[:-1], "a.txt")
    ((line, image, reason),) = skipped(read("folder", tmp_path))
    assert (line, image, reason.split(":")[0]) == (1, "a.jpg", "its text cannot be decoded")


def test_an_unknown_encoding_of_texts_is_refused(tmp_path):
    write(tmp_path, b"image", "a.jpg")
    write(tmp_path, "a dog", "a.txt")
    with pytest.raises(ParamsError, match=r"params\.data\.encoding: unknown encoding: klingon"):
        read("folder", tmp_path, encoding="klingon")
