"""Names in captions and names on the disk: which picture is meant."""

import tarfile
import unicodedata
import zipfile

import pytest
from reading import written

from pipeline.archives import read_image_bytes
from pipeline.datasets.image_index import ImageIndex
from pipeline.errors import DataError


def zipped(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, f"{path.name} {name}")
    return path


def test_a_picture_in_a_folder_is_its_path(tmp_path):
    written(tmp_path, b"x", "sub/a.jpg")
    assert ImageIndex(tmp_path).find("sub/a.jpg") == (tmp_path / "sub/a.jpg").as_posix()
    assert ImageIndex(tmp_path).find("b.jpg") is None


def test_a_name_may_differ_in_case_and_in_unicodes_form(tmp_path):
    written(tmp_path, b"x", "sub/A.JPG")
    written(tmp_path, b"x", unicodedata.normalize("NFD", "caf\u00e9.jpg"))
    pictures = ImageIndex(tmp_path)
    assert pictures.find("Sub/a.jpg").endswith("sub/A.JPG")
    assert read_image_bytes(pictures.find("caf\u00e9.jpg")) == b"x"


def test_a_name_that_could_mean_two_pictures_means_none(tmp_path):
    written(tmp_path, b"x", "A.jpg")
    written(tmp_path, b"y", "a.JPG")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the file system does not tell upper from lower case")
    pictures = ImageIndex(tmp_path)
    assert pictures.find("a.jpg") is None
    assert pictures.find("A.jpg") == (tmp_path / "A.jpg").as_posix()


def test_captions_need_not_name_the_folder_inside_an_archive(tmp_path):
    path = zipped(tmp_path / "Images.zip", "Images/a.jpg", "Images/b.jpg", "Images/notes.txt")
    for root in (path, tmp_path):
        pictures = ImageIndex(root)
        for name in ("a.jpg", "Images/a.jpg"):
            assert read_image_bytes(pictures.find(name)) == b"Images.zip Images/a.jpg"
    assert list(ImageIndex(path).names()) == ["Images/a.jpg", "Images/b.jpg"]


def test_an_archive_counts_as_the_folder_that_it_is_named_after(tmp_path):
    zipped(tmp_path / "train2017.zip", "train2017/1.jpg")
    zipped(tmp_path / "val2017.zip", "1.jpg")
    pictures = ImageIndex(tmp_path)
    assert read_image_bytes(pictures.find("train2017/1.jpg")) == b"train2017.zip train2017/1.jpg"
    assert read_image_bytes(pictures.find("val2017/1.jpg")) == b"val2017.zip 1.jpg"
    assert pictures.find("test2017/1.jpg") is None
    assert pictures.find("1.jpg") is None


def test_loose_pictures_go_before_the_archive_they_came_from(tmp_path):
    zipped(tmp_path / "a.zip", "a.jpg", "b.jpg")
    written(tmp_path, b"loose", "a.jpg")
    pictures = ImageIndex(tmp_path)
    assert read_image_bytes(pictures.find("a.jpg")) == b"loose"
    assert read_image_bytes(pictures.find("b.jpg")) == b"a.zip b.jpg"
    assert list(pictures.names()) == ["a.jpg"]


def test_a_damaged_archive_is_named(tmp_path):
    path = written(tmp_path, b"PK no zip", "a.zip")
    with pytest.raises(DataError, match=r"a.zip: not a whole zip archive: .*; check params.data.images"):
        ImageIndex(path).find("a.jpg")


def test_a_link_that_leads_out_of_the_folder_is_noticed(tmp_path):
    written(tmp_path, b"secret", "secret.jpg")
    root = tmp_path / "images"
    root.mkdir()
    (root / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    written(root, b"x", "b.jpg")
    (root / "c.jpg").symlink_to(root / "b.jpg")
    pictures = ImageIndex(root)
    assert pictures.leaves(pictures.find("a.jpg"))
    assert not pictures.leaves(pictures.find("c.jpg"))


def test_links_in_archives_are_no_pictures(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert ImageIndex(path).find("a.jpg") is None
