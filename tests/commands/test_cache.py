"""`captioner cache`: what the store holds, whether it is sound, and less of it."""

import json

import pytest
from conftest import run_command, set_param


@pytest.fixture
def filled(project):
    """A project whose store holds two encoders."""
    for grid in (3, 2):
        set_param(project, "encoder.grid", grid)
        for stage in ("prepare", "extract"):
            assert run_command(stage, cwd=project)[0] == 0
    return project


def digests(project):
    code, out, _ = run_command("cache", "show", "--json", cwd=project)
    assert code == 0
    return {json.loads(line)["spec"]["grid"]: json.loads(line)["digest"] for line in out.splitlines()}


def test_show_lists_encoders_with_pictures_and_bytes(filled):
    code, out, said = run_command("cache", "show", cwd=filled)
    assert (code, said.splitlines()[0].split(": ")[1].split(",")[0]) == (0, "2 encoders")
    assert len(out.splitlines()) == 2
    assert "18 pictures" in out
    assert "alexnet (random:17) at " in out
    assert ", 3 x 3, 64 pixels" in out


def test_an_empty_store_is_no_error(project):
    code, out, said = run_command("cache", "show", cwd=project)
    assert (code, out) == (0, "")
    assert "0 encoders" in said


def test_verify_counts_damaged_rows_and_the_next_run_mends_them(filled):
    assert run_command("cache", "verify", cwd=filled)[0] == 0
    folder = filled / ".cache" / "features" / digests(filled)[2]
    (segment,) = folder.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[-3] ^= 1
    segment.write_bytes(bytes(content))
    code, out, said = run_command("cache", "verify", digests(filled)[2][:8], cwd=filled)
    assert code == 4
    assert "17 sound          1 damaged" in out
    assert "damaged rows; `dvc repro -f extract` encodes" in said
    assert "17 from the store, 1 encoded" in run_command("extract", cwd=filled)[2]
    assert run_command("cache", "show", cwd=filled)[1].count("18 pictures") == 2


def test_prune_forgets_one_encoder(filled):
    code, out, _ = run_command("cache", "prune", digests(filled)[3][:10], cwd=filled)
    assert (code, "18 pictures forgotten" in out) == (0, True)
    assert list(digests(filled)) == [2]
    assert "18 from the store, 0 encoded" in run_command("extract", cwd=filled)[2]


def test_prune_forgets_what_the_dataset_does_not_have(filled):
    table = filled / "data/tiny/captions.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith("001.png")))
    (filled / "data/tiny/images/001.png").unlink()
    before = sum(path.stat().st_size for path in (filled / ".cache").rglob("*.segment"))
    assert run_command("prepare", cwd=filled)[0] == 0
    code, out, said = run_command("cache", "prune", "--unused", cwd=filled)
    assert (code, said) == (0, "")
    assert out.count("1 of 18 pictures forgotten") == 2
    assert sum(path.stat().st_size for path in (filled / ".cache").rglob("*.segment")) < before
    assert run_command("cache", "verify", cwd=filled)[0] == 0
    assert "17 from the store, 0 encoded" in run_command("extract", cwd=filled)[2]
    assert "0 of 17 pictures forgotten" in run_command("cache", "prune", "--unused", cwd=filled)[1]


@pytest.mark.parametrize("arguments", [["prune"], ["prune", "--unused", "abc"]])
def test_prune_wants_to_know_what(filled, arguments):
    code, _, said = run_command("cache", *arguments, cwd=filled)
    assert code == 2
    assert "name encoders, or give --unused" in said


def test_an_unknown_digest_is_named(filled):
    code, _, said = run_command("cache", "verify", "zzz", cwd=filled)
    assert code == 3
    assert "no encoders begin with 'zzz'" in said


def test_a_folder_that_is_not_ours_is_left_alone(filled):
    (filled / ".cache/features/other").mkdir()
    code, out, _ = run_command("cache", "show", cwd=filled)
    assert code == 0
    assert "of another version of this program, or damaged" in out
    assert run_command("cache", "prune", "other", cwd=filled)[0] == 4
    assert (filled / ".cache/features/other").is_dir()
