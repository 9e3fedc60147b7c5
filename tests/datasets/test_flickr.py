"""The formats `flickr8k` and `flickr30k`."""

import pytest
from reading import detect, kept, read, skipped, write

from pipeline.errors import DataError


def test_flickr8k_split_lists(tmp_path):
    path = write(tmp_path, "image,caption\na.jpg,x\nb.jpg,y\nc.jpg,z\n", "captions.txt")
    write(tmp_path, "a.jpg\n", "Flickr_8k.trainImages.txt")
    write(tmp_path, "b.jpg\r\n", "Flickr_8k.devImages.txt")
    entries = read("flickr8k", path)
    assert kept(entries) == [("a.jpg", "x", "train"), ("b.jpg", "y", "val")]
    assert skipped(entries) == [(4, "c.jpg", "the image is in none of the split lists")]


def test_flickr8k_token_file_with_its_known_wrong_name(tmp_path):
    write(
        tmp_path,
        "a.jpg#0\tA dog , running .\na.jpg#1\tA cat\nbroken line\n2258277193_586949ec62.jpg.1#0\tpeople\n",
        "Flickr8k.token.txt",
    )
    entries = read("flickr8k", tmp_path)
    assert kept(entries) == [
        ("a.jpg", "A dog , running .", None),
        ("a.jpg", "A cat", None),
        ("2258277193_586949ec62.jpg", "people", None),
    ]
    assert skipped(entries) == [(3, "broken line", "no tab between the image name and the caption")]


def test_a_split_list_must_have_images_of_the_captions(tmp_path):
    path = write(tmp_path, "image,caption\na.jpg,x\nb.jpg,y\n", "captions.txt")
    write(tmp_path, "a.jpg\ngone.jpg\n", "Flickr_8k.trainImages.txt")
    write(tmp_path, "b\n", "Flickr_8k.devImages.txt")
    with pytest.raises(DataError, match=r"devImages.txt: captions.txt has none of its images, such as 'b'; write the"):
        read("flickr8k", path)
    write(tmp_path, "b.jpg\n", "Flickr_8k.devImages.txt")
    entries = read("flickr8k", path)
    assert kept(entries) == [("a.jpg", "x", "train"), ("b.jpg", "y", "val")]
    assert entries.notes[-1].endswith("Flickr_8k.trainImages.txt: 1 image without captions, such as gone.jpg")


def test_a_token_file_with_spaces_instead_of_tabs(tmp_path):
    path = write(tmp_path, "a.jpg#0    A dog , running .\na.jpg#1 A cat\n", "Flickr8k.token.txt")
    assert detect(tmp_path).format == "flickr8k"
    assert kept(read("flickr8k", path)) == [("a.jpg", "A dog , running .", None), ("a.jpg", "A cat", None)]


def test_an_image_in_two_split_lists_is_in_both_splits(tmp_path):
    write(tmp_path, "image,caption\na.jpg,x\n", "captions.txt")
    for name in ("Flickr_8k.trainImages.txt", "Flickr_8k.testImages.txt"):
        write(tmp_path, "a.jpg\n", name)
    assert kept(read("flickr8k", tmp_path)) == [("a.jpg", "x", "train"), ("a.jpg", "x", "test")]


def test_flickr30k_results_with_the_row_that_lacks_a_delimiter(tmp_path):
    write(
        tmp_path,
        "image_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys , outside .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
        "1.jpg| 2| a sign | with a bar\n"
        "2.jpg\n",
        "results.csv",
    )
    entries = read("flickr30k", tmp_path)
    assert kept(entries) == [
        ("1000092795.jpg", "Two young guys , outside .", None),
        ("2199200615.jpg", "A dog runs across the grass .", None),
        ("1.jpg", "a sign | with a bar", None),
    ]
    assert skipped(entries) == [(5, "2.jpg", "expected image_name | comment_number | comment")]


def test_flickr30k_token_file(tmp_path):
    path = write(tmp_path, 'a.jpg#0\tA "dog" runs .\na.jpg#4\tA cat\n', "results_20130124.token")
    assert kept(read("flickr30k", path)) == [("a.jpg", 'A "dog" runs .', None), ("a.jpg", "A cat", None)]


def test_blank_lines_before_the_first_row_are_ignored(tmp_path):
    results = write(tmp_path, "\nimage_name| comment_number| comment\na.jpg| 0| x\n", "results.csv")
    token = write(tmp_path, "\na.jpg#0\tx\n", "Flickr8k.token.txt")
    for path, format in ((results, "flickr30k"), (token, "flickr8k")):
        assert detect(path).format == format
        assert kept(read(format, path)) == [("a.jpg", "x", None)]
