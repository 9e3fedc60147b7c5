"""Each folder is listed once, under its own name."""

import pytest

from pipeline.errors import DataError
from pipeline.folder_walk import walk_files


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
