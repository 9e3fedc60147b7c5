"""`captioner cache`: lists, verifies and prunes the feature store."""

import json
import shutil

import pytest
from support import run_command, run_stages, set_param, write_project


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project whose store contains two encoders."""
    folder = tmp_path_factory.mktemp("cache")
    write_project(folder)
    for grid in (3, 2):
        set_param(folder, "encoder.grid", grid)
        run_stages(folder, "prepare", "extract")
    return folder


@pytest.fixture
def filled(template, project):
    shutil.copytree(template, project, dirs_exist_ok=True)
    return project


def digests(project):
    code, out, _ = run_command("cache", "show", "--json")
    assert code == 0
    return {json.loads(line)["spec"]["grid"]: json.loads(line)["digest"] for line in out.splitlines()}


def test_show_lists_encoders_with_images_and_bytes(filled):
    code, out, err = run_command("cache", "show")
    assert (code, err.splitlines()[0].split(": ")[1].split(",")[0]) == (0, "2 encoders")
    assert len(out.splitlines()) == 2
    assert "18 images" in out
    assert "alexnet (random:17) at " in out
    assert ", 3 x 3, 64 pixels" in out


def test_folders_that_are_not_the_stores_are_left_alone(filled):
    photos = filled / ".cache/features/photos"
    photos.mkdir()
    (photos / "broken").symlink_to("nothing")
    code, out, _ = run_command("cache", "show")
    assert (code, "photos" in out) == (0, False)
    code, out, _ = run_command("cache", "prune", "--unused")
    assert (code, "photos" in out) == (0, False)


def test_an_empty_store_is_no_error(project):
    code, out, err = run_command("cache", "show")
    assert (code, out) == (0, "")
    assert "0 encoders" in err


def test_verify_counts_damaged_rows_and_the_next_run_encodes_them_again(filled):
    assert run_command("cache", "verify")[0] == 0
    folder = filled / ".cache" / "features" / digests(filled)[2]
    (part,) = folder.glob("*.h5")
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(bytes(content))
    code, out, err = run_command("cache", "verify", digests(filled)[2][:8])
    assert code == 4
    assert "17 intact          1 damaged" in out
    assert "damaged rows; `dvc repro -f extract` encodes" in err
    assert "17 from the store, 1 encoded" in run_command("extract")[2]
    assert run_command("cache", "show")[1].count("18 images") == 2
    assert run_command("cache", "verify")[0] == 0


def test_prune_deletes_one_encoder(filled):
    code, out, _ = run_command("cache", "prune", digests(filled)[3][:10])
    assert (code, "18 images deleted" in out) == (0, True)
    assert list(digests(filled)) == [2]
    assert "18 from the store, 0 encoded" in run_command("extract")[2]


def test_an_encoder_named_twice_is_deleted_once(filled):
    digest = digests(filled)[3]
    code, out, _ = run_command("cache", "prune", digest[:10], digest)
    assert (code, out.count("deleted")) == (0, 1)


def test_prune_deletes_images_that_the_dataset_does_not_contain(filled):
    table = filled / "data/tiny/captions.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith("001.png")))
    (filled / "data/tiny/images/001.png").unlink()
    before = sum(path.stat().st_size for path in (filled / ".cache").rglob("*.h5"))
    assert run_command("prepare")[0] == 0
    code, out, err = run_command("cache", "prune", "--unused")
    assert (code, err) == (0, "")
    assert out.count("1 of 18 images deleted") == 2
    assert sum(path.stat().st_size for path in (filled / ".cache").rglob("*.h5")) < before
    assert run_command("cache", "verify")[0] == 0
    assert "17 from the store, 0 encoded" in run_command("extract")[2]
    assert "0 of 17 images deleted" in run_command("cache", "prune", "--unused")[1]


@pytest.mark.parametrize("arguments", [["prune"], ["prune", "--unused", "abc"]])
def test_prune_needs_encoders_or_unused(filled, arguments):
    code, _, err = run_command("cache", *arguments)
    assert code == 2
    assert "name encoders, or use --unused" in err


def test_an_empty_digest_selects_nothing(filled):
    code, _, err = run_command("cache", "prune", "")
    assert (code, "an empty digest names no encoder" in err) == (2, True)
    assert run_command("cache", "show")[1].count("18 images") == 2


def test_a_file_in_the_place_of_the_store_is_refused(project):
    code, _, err = run_command("cache", "verify", "--store", "params.yaml")
    assert (code, "params.yaml: a file in the place of the feature store" in err) == (5, True)


def test_an_unknown_digest_is_named(filled):
    code, _, err = run_command("cache", "verify", "zzz")
    assert code == 3
    assert "no encoders begin with 'zzz'" in err


def test_a_folder_of_another_version_is_not_touched(filled):
    other = filled / ".cache/features" / (64 * "0")
    other.mkdir()
    code, out, _ = run_command("cache", "show")
    assert code == 0
    assert "of another version of this program, or damaged" in out
    assert run_command("cache", "prune", other.name)[0] == 4
    assert other.is_dir()
