"""Files: written whole or not at all, as public as everything else here, and read with the place of a mistake."""

import os

import pytest

from pipeline.errors import DataError
from pipeline.files import read_csv, write_csv, write_text

HEADER = ("image", "caption")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_a_file(tmp_path, umask, mode):
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
        (b"image,caption\na.jpg,caf\xe9\n", "not a table in UTF-8"),
        (b"image,text\n", r"the columns are \['image', 'text'\]"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{words}"):
        list(read_csv(tmp_path / "a.csv", HEADER))
