"""Files are written completely or not at all; errors name the line."""

import os

import pytest

from pipeline.errors import DataError
from pipeline.files import read_csv, replacing, write_csv, write_text

HEADER = ("image", "caption")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_the_permissions_of_a_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_field_of_any_length_is_read(tmp_path):
    long = "dog " * 100_000
    write_csv(tmp_path / "a.csv", HEADER, [("a.jpg", long)])
    assert list(read_csv(tmp_path / "a.csv", HEADER)) == [["a.jpg", long]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,caption\na.jpg,one\nb.jpg\n", "line 3: 1 fields, expected 2"),
        (b"image,caption\na.jpg,one,two\n", "line 2: 3 fields, expected 2"),
        (b"image,caption\na.jpg,caf\xe9\n", "not a CSV file in UTF-8"),
        (b"image,text\n", r"the columns are \['image', 'text'\]"),
    ],
)
def test_a_malformed_csv_file_is_refused_with_its_line(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{words}"):
        list(read_csv(tmp_path / "a.csv", HEADER))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
