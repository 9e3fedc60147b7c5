"""Files are written completely or not at all; errors name the line."""

import errno
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO

import pytest

from pipeline.errors import DataError, DiskError, ParamsError
from pipeline.files import (
    check_room,
    check_writable,
    locked_folder,
    read_csv,
    replacing,
    write_at,
    write_csv,
    write_text,
)

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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("path", ["pipe", "link", "/dev/null", "/dev/stdout"])
def test_pipes_and_devices_are_never_replaced(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ParamsError, match="a pipe, a socket or a device, which a file would replace"):
        check_writable(tmp_path / path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"no space left: [\d,]+ bytes are free"),
        (errno.EDQUOT, r"your disk quota is used up, whatever space the disk has"),
        (errno.EFBIG, r"larger than the limit of this shell \(`ulimit -f`\)"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_the_reason_why_a_file_cannot_be_written_is_the_true_one(tmp_path, number, words):
    with pytest.raises(DiskError, match=words) as caught, replacing(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))
    assert ("bytes are free" in str(caught.value)) == (number == errno.ENOSPC)


def test_the_room_in_a_folder_is_that_of_its_own_disk(tmp_path, monkeypatch):
    """The feature store may be a folder where another disk is mounted."""
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=0)
    monkeypatch.setattr("pipeline.files.shutil.disk_usage", lambda path: usage if path == tmp_path else full)
    check_room(tmp_path, 1000)


def test_threads_write_to_their_places_without_pwrite(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pwrite")  # as on Windows

    class SlowFile(FileIO):
        def seek(self, *place):
            super().seek(*place)
            time.sleep(0.0001)  # for the other threads

    parts = [bytes([number]) * 1000 for number in range(200)]
    with SlowFile(tmp_path / "file", "w") as file, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: write_at(file, 1000 * number, parts[number]), range(200)))
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_a_locked_folder_loses_temporary_files_and_nothing_else(tmp_path):
    """With `--out .`, the folder is the user's own."""
    kept = [tmp_path / ".gitlab-ci.yml", tmp_path / "sub" / ".eslintrc.json", tmp_path / ".a.0123.h5"]
    leftovers = [tmp_path / ".a.h5.0123456789abcdef", tmp_path / "sub" / ".b.csv.fedcba9876543210"]
    (tmp_path / "sub").mkdir()
    for path in (*kept, *leftovers):
        path.touch()
    with locked_folder(tmp_path):
        assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in kept)
