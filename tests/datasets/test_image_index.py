"""The image that a name in a caption means."""

import tarfile
import unicodedata
from pathlib import Path

import pytest
from reading import pack, write

from pipeline.archives import open_archive, read_image_bytes
from pipeline.datasets.image_index import ImageIndex, walk_files
from pipeline.datasets.image_root import find_image_root, likely_image_roots
from pipeline.errors import DataError


def zip_file(path, *names):
    return pack(path, {name: f"{path.name} {name}" for name in names})


def test_an_image_in_a_folder_is_found_by_its_path(tmp_path):
    write(tmp_path, b"x", "sub/a.jpg")
    assert ImageIndex(tmp_path).find("sub/a.jpg") == (tmp_path / "sub/a.jpg").as_posix()
    assert ImageIndex(tmp_path).find("b.jpg") is None


def test_a_name_may_differ_in_case_and_unicode_form(tmp_path):
    write(tmp_path, b"x", "sub/A.JPG")
    write(tmp_path, b"x", unicodedata.normalize("NFD", "caf\u00e9.jpg"))
    index = ImageIndex(tmp_path)
    assert index.find("Sub/a.jpg").endswith("sub/A.JPG")
    assert read_image_bytes(index.find("caf\u00e9.jpg")) == b"x"


def test_a_name_may_lack_its_suffix(tmp_path):
    for name in ("a.jpg", "sub/B.PNG", "c.jpg", "c.png"):
        write(tmp_path, b"x", name)
    zip_file(tmp_path / "more/d.zip", "d/e.jpg")
    index = ImageIndex(tmp_path)
    assert index.find("a").endswith("a.jpg")
    assert index.find("sub/b").endswith("sub/B.PNG")
    assert index.find("c") is None
    assert index.problem("c") == "the name fits two files: c.jpg, c.png"
    assert index.problem("f" * 300) == "the image does not exist"
    assert index.find("e").endswith("d.zip::d/e.jpg")


def test_an_ambiguous_name_is_not_found(tmp_path):
    write(tmp_path, b"x", "A.jpg")
    write(tmp_path, b"y", "a.JPG")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the file system ignores case")
    index = ImageIndex(tmp_path)
    assert index.find("a.jpg") is None
    assert index.find("A.jpg") == (tmp_path / "A.jpg").as_posix()


def test_a_name_may_lack_the_folder_inside_an_archive(tmp_path):
    path = zip_file(tmp_path / "Images.zip", "Images/a.jpg", "Images/b.jpg", "Images/notes.txt")
    for root in (path, tmp_path):
        index = ImageIndex(root)
        for name in ("a.jpg", "Images/a.jpg"):
            assert read_image_bytes(index.find(name)) == b"Images.zip Images/a.jpg"
    assert list(ImageIndex(path).names()) == ["Images/a.jpg", "Images/b.jpg"]


def test_an_archive_counts_as_the_folder_it_is_named_after(tmp_path):
    zip_file(tmp_path / "train2017.zip", "train2017/1.jpg")
    zip_file(tmp_path / "val2017.zip", "1.jpg")
    index = ImageIndex(tmp_path)
    assert read_image_bytes(index.find("train2017/1.jpg")) == b"train2017.zip train2017/1.jpg"
    assert read_image_bytes(index.find("val2017/1.jpg")) == b"val2017.zip 1.jpg"
    assert index.find("test2017/1.jpg") is None
    assert index.find("1.jpg") is None


def test_files_precede_an_archive_and_its_other_images_are_found_and_listed(tmp_path):
    zip_file(tmp_path / "a.zip", "a.jpg", "b.jpg")
    write(tmp_path, b"loose", "a.jpg")
    index = ImageIndex(tmp_path)
    assert read_image_bytes(index.find("a.jpg")) == b"loose"
    assert read_image_bytes(index.find("b.jpg")) == b"a.zip b.jpg"
    assert list(index.names()) == ["a.jpg", "a.zip/a.jpg", "a.zip/b.jpg"]


def test_an_archive_whose_images_were_unpacked_is_not_listed(tmp_path):
    path = pack(tmp_path / "a.tar", {"x/a.jpg": b"a", "x/a.txt": b"a dog", "x/b.jpg": b"b"})
    pack(tmp_path / "texts.zip", {"a.txt": b"a dog"})
    for name, content in (("x/a.jpg", b"a"), ("b.jpg", b"b edited"), ("c.jpg", b"c")):
        write(tmp_path, content, name)
    assert list(ImageIndex(tmp_path).files()) == ["b.jpg", "c.jpg", "x/a.jpg"]
    for others in ({"a.jpg": b"another"}, {"a.jpg": b"a", "d.jpg": b"d"}):  # other images, some of the same names
        pack(path, others)
        assert [name for name in ImageIndex(tmp_path).names() if "tar" in name] == [f"a.tar/{name}" for name in others]


def test_a_damaged_archive_is_refused(tmp_path):
    path = write(tmp_path, b"PK no zip", "a.zip")
    with pytest.raises(DataError, match=r"data.images: .*a.zip: not a complete zip archive: .*; copy or"):
        ImageIndex(path).find("a.jpg")


def test_links_of_the_user_are_followed_also_to_folders_and_in_circles(tmp_path):
    write(tmp_path, b"x", "cache/a.jpg")
    write(tmp_path, b"y", "photos/B.jpg")
    root = tmp_path / "images"
    root.mkdir()
    (root / "a.jpg").symlink_to(tmp_path / "cache/a.jpg")
    (root / "more").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/loop").symlink_to(root)
    index = ImageIndex(root)
    assert list(index.names()) == ["a.jpg", "more/B.jpg"]
    assert read_image_bytes(index.find("a.jpg")) == b"x"
    assert read_image_bytes(index.find("more/b.jpg")) == b"y"


def test_broken_links_are_no_images_and_are_listed(tmp_path):
    write(tmp_path, b"x", "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    index = ImageIndex(tmp_path)
    assert list(index.names()) == ["a.jpg"]
    assert index.ignored_files() == index.broken_links == ["gone.jpg", "loop.jpg"]
    assert index.find("gone.jpg") is None
    assert index.problem("gone.jpg") == index.problem("loop.jpg") == "a broken symbolic link"


@pytest.mark.parametrize("name", ["7", "07", "7.jpg", "000007", "7.0"])
@pytest.mark.parametrize("file", ["000007.jpg", "sub/7.jpg", "COCO_train2014_000000000007.jpg"])
def test_a_name_may_be_the_number_of_an_image(tmp_path, name, file):
    write(tmp_path, b"x", file)
    assert ImageIndex(tmp_path).find(name) == (tmp_path / file).as_posix()


def test_a_number_that_could_be_two_images_is_none(tmp_path):
    for file in ("a_7.jpg", "b_07.jpg", "a_8.jpg"):
        write(tmp_path, b"x", file)
    assert ImageIndex(tmp_path).find("7") is None
    assert ImageIndex(tmp_path).find("8").endswith("a_8.jpg")
    write(tmp_path, b"x", "9.jpg")  # where files are named by numbers, others do not count
    assert ImageIndex(tmp_path).find("8") is None


def test_files_that_are_no_images_are_listed(tmp_path):
    for name in ("a.jpg", "a.txt", "captions.csv", "sub/b.JP2", "c.mov", ".hidden"):
        write(tmp_path, b"x", name)
    assert ImageIndex(tmp_path).ignored_files() == ["c.mov", "sub/b.JP2"]
    placeholder = write(tmp_path, b"x", ".d.HEIC.icloud")
    assert ImageIndex(tmp_path).ignored_files() == [placeholder.name, "c.mov", "sub/b.JP2"]
    placeholder.unlink()
    pack(tmp_path / "code.zip", {"a.py": b""})
    pack(tmp_path / "images.zip", {"a.jpg": b""})
    write(tmp_path, b"damaged", "sub/images.tar")
    assert ImageIndex(tmp_path).ignored_files() == ["c.mov", "code.zip", "sub/b.JP2", "sub/images.tar"]


def test_links_in_archives_are_not_images(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert ImageIndex(path).find("a.jpg") is None


@pytest.mark.parametrize("folder", ["train", "val2014", "test2017"])
def test_a_name_may_have_the_folder_of_a_split_that_is_not_there(tmp_path, folder):
    write(tmp_path, b"x", "a.jpg")
    write(tmp_path, b"y", "train/b.jpg")
    index = ImageIndex(tmp_path)
    assert index.find(f"{folder}/a.jpg") == (tmp_path / "a.jpg").as_posix()
    assert index.find("train/b.jpg").endswith("train/b.jpg")
    assert index.find("val/b.jpg") is None
    assert index.find("dogs/a.jpg") is None  # only the folders of splits are ever assumed


@pytest.mark.parametrize("folders", [("cats", "dogs"), ("train", "val")])
def test_images_of_the_same_name_in_two_folders_are_not_taken_for_each_other(tmp_path, folders):
    names = [f"{folder}/00{number}.jpg" for folder in folders for number in range(3)]
    for name in names:
        write(tmp_path, b"x", name)
    root = find_image_root(likely_image_roots(tmp_path, tmp_path, [*names, "x" * 300]), names)
    assert (root.index.root, root.found) == (tmp_path, 6)


def test_the_folder_of_the_images_is_found_under_its_own_name(tmp_path):
    write(tmp_path, b"x", "deep/images/a.jpg")
    for link, target in (("another", "deep/images"), ("loop", ".")):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert (
        find_image_root(likely_image_roots(tmp_path, tmp_path, ["a.jpg"]), ["a.jpg"]).index.root
        == tmp_path / "deep/images"
    )
    (tmp_path / "b.jpg").touch()
    assert find_image_root(likely_image_roots(tmp_path, tmp_path, ["b.jpg"]), ["b.jpg"]).index.root == tmp_path


# The files below a folder


@pytest.fixture
def root(tmp_path):
    for name in ("d/a.jpg", "d/sub/b.jpg", "d/._b.jpg", ".hidden/c.jpg"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "root"


def test_files_are_listed_folder_by_folder(root):
    assert list(walk_files(root, hidden_folders=False)) == ["d/a.jpg", "d/sub/b.jpg"]
    assert list(walk_files(root, hidden_folders=True)) == [".hidden/c.jpg", "d/a.jpg", "d/sub/b.jpg"]


@pytest.mark.parametrize("link", ["d/loop", "a", "d/another", "d/sub/up"])
@pytest.mark.parametrize("target", ["d", "d/sub", "."])
def test_a_link_to_a_folder_below_adds_nothing(root, link, target):
    (root / link).symlink_to(root / target)
    assert list(walk_files(root, hidden_folders=False)) == ["d/a.jpg", "d/sub/b.jpg"]


def test_a_link_to_a_folder_elsewhere_is_followed(root, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/c.jpg").touch()
    (tmp_path / "photos/back").symlink_to(root)
    (root / "d/again").symlink_to(tmp_path / "photos")
    (root / "d/more").symlink_to(tmp_path / "photos")
    assert list(walk_files(root, hidden_folders=False)) == ["d/a.jpg", "d/sub/b.jpg", "d/again/c.jpg"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path):
    with pytest.raises(DataError, match="gone: cannot be listed: No such file"):
        list(walk_files(tmp_path / "gone", hidden_folders=False))


def test_a_number_in_the_folder_of_another_split_is_another_image(tmp_path):
    write(tmp_path, b"x", "val/0005.jpg")
    index = ImageIndex(tmp_path)
    assert index.find("train/0005.jpg") is None
    assert index.find("5").endswith("val/0005.jpg")


def test_an_image_in_the_archive_of_another_split_is_another_image(tmp_path, monkeypatch):
    zip_file(tmp_path / "train.zip", "1.jpg")
    zip_file(tmp_path / "val.zip", "1.jpg", "9.jpg")
    index = ImageIndex(tmp_path)
    assert index.find("train/1.jpg").endswith("train.zip::1.jpg")
    assert index.find("train/9.jpg") is None
    assert index.find("9.jpg").endswith("val.zip::9.jpg")
    monkeypatch.chdir(tmp_path)
    assert ImageIndex(Path()).find("train/9.jpg") is None


def test_each_archive_is_opened_once(tmp_path, monkeypatch):
    for name in ("a.zip", "b.zip"):
        zip_file(tmp_path / name, f"{name}.jpg")
    opened = []
    monkeypatch.setattr(
        "pipeline.datasets.image_index.open_archive", lambda path: opened.append(path) or open_archive(path)
    )
    index = ImageIndex(tmp_path)
    assert len(list(index.names())) == 2
    assert index.problem("c.jpg") == "the image does not exist"
    assert len(opened) == 2


def test_a_number_with_a_suffix_is_an_image_of_that_format(tmp_path):
    for name in ("07.jpg", "008.png"):
        write(tmp_path, b"x", name)
    index = ImageIndex(tmp_path)
    assert index.find("7.png") is None
    assert index.find("8.png").endswith("008.png")


def test_a_damaged_archive_beside_images_is_named_where_an_image_is_missing(tmp_path):
    write(tmp_path, b"x", "a.jpg")
    path = write(tmp_path, b"damaged", "more.tar")
    problem = ImageIndex(tmp_path).problem("b.jpg")
    assert problem.startswith(f"the image does not exist, unless it is in an archive that cannot be read: {path}: ")


def test_a_name_may_lack_the_folder_above_a_file(tmp_path):
    for name in ("train/a.jpg", "val/b.jpg", "train/c.jpg", "val/c.jpg"):
        write(tmp_path, b"x", name)
    index = ImageIndex(tmp_path)
    assert index.find("A.jpg").endswith("train/a.jpg")
    assert index.find("a.jpg", in_any_folder=False) is None
    assert index.find("validation/b.jpg").endswith("val/b.jpg")
    assert index.find("c.jpg") is None
    assert index.problem("c.jpg") == "the name fits two files: train/c.jpg, val/c.jpg"
    root = find_image_root(likely_image_roots(tmp_path, tmp_path, ["a.jpg", "b.jpg"]), ["a.jpg", "b.jpg"])
    assert root.index.root == tmp_path


@pytest.mark.parametrize(("captions", "folder", "rival"), [("my_train.csv", "train", None), ("a.csv", "test", "train")])
def test_of_folders_with_images_of_the_same_names_that_of_the_split_is_used(tmp_path, captions, folder, rival):
    names = [f"{number}.png" for number in range(3)]
    for split in ("test", "train"):
        for name in names:
            write(tmp_path, f"{split} {name}", f"{split}/{name}")
    file = write(tmp_path, "", captions)
    root = find_image_root(likely_image_roots(file, tmp_path, names), names, file)
    assert (root.index.root, root.rival) == (tmp_path / folder, rival and tmp_path / rival)


def test_the_folder_of_the_split_is_used_though_an_image_is_missing(tmp_path):
    names = [f"{number}.png" for number in range(9)]
    for folder, held in (("train", names), ("val", names[1:])):
        for name in held:
            write(tmp_path, f"{folder} {name}", f"{folder}/{name}")
    file = write(tmp_path, "", "val.csv")
    root = find_image_root(likely_image_roots(file, tmp_path, names), names, file)
    assert (root.index.root, root.found, root.sampled) == (tmp_path / "val", 8, 9)


def test_a_copy_of_the_images_is_no_rival(tmp_path):
    for name in ("images/a.jpg", "copy/a.jpg"):
        write(tmp_path, b"x", name)
    write(tmp_path, b"small", "copy/small/a.jpg")
    zip_file(tmp_path / "damaged.zip", "a.jpg").write_bytes(b"PK")
    root = find_image_root(likely_image_roots(tmp_path, tmp_path, ["a.jpg"]), ["a.jpg"], tmp_path / "a.csv")
    assert (root.index.root, root.rival) == (tmp_path / "copy", None)


def test_a_folder_of_another_split_than_the_name_is_not_used(tmp_path):
    write(tmp_path, b"x", "test/0.png")
    assert ImageIndex(tmp_path / "test").find("test2017/0.png")
    assert ImageIndex(tmp_path / "test").find("train/0.png") is None
