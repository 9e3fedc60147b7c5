"""The hash cache."""

import os

import pytest

from pipeline.datasets.image_hashes import hash_images
from pipeline.progress import no_progress


@pytest.fixture
def images(tmp_path):
    """Five files that were modified a while ago."""
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
        past = path.stat().st_mtime - 100
        os.utime(path, (past, past))
    return [str(path) for path in paths]


def hash_again(images, cache):
    return hash_images(images, cache, no_progress)


def test_unchanged_images_come_from_the_cache(images, tmp_path):
    first = hash_again(images, tmp_path / "cache.json")
    second = hash_again(images, tmp_path / "cache.json")
    assert (first.hashed, second.hashed, second.sha256) == (5, 0, first.sha256)


def test_a_cache_with_a_changed_digit_is_not_trusted(images, tmp_path):
    cache = tmp_path / "cache.json"
    first = hash_again(images, cache)
    sha256 = first.sha256[images[2]]
    cache.write_text(cache.read_text().replace(sha256, ("1" if sha256[0] == "0" else "0") + sha256[1:]))
    second = hash_again(images, cache)
    assert (second.hashed, second.sha256) == (5, first.sha256)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"42", b"[1, {}]", "folder", "truncated"])
def test_a_damaged_cache_is_rebuilt(images, tmp_path, damage):
    cache = tmp_path / "cache.json"
    first = hash_again(images, cache)
    content = cache.read_bytes()
    cache.unlink()
    if damage == "folder":
        cache.mkdir()
    else:
        cache.write_bytes(content[: len(content) // 2] if damage == "truncated" else damage)
    second = hash_again(images, cache)
    assert (second.hashed, second.sha256) == (5, first.sha256)
