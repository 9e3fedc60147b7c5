"""Results travel between machines through a DVC remote: real `dvc push` and `dvc pull` between two clones."""

import os
import shutil
import subprocess

import pytest
from support import set_param
from test_dvc_commands import commit, dvc, environment, repository, repro, run  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.skipif(not (dvc and shutil.which("git")), reason="needs dvc and git"),
    pytest.mark.slow,
]
STAGES = 7


@pytest.fixture
def local_remote(tmp_path_factory):
    return str(tmp_path_factory.mktemp("remote")), {}


@pytest.fixture
def s3_remote(s3_server):
    pytest.importorskip("dvc_s3", reason="needs dvc-s3: pip install -e '.[s3]'")
    return s3_server.url("cache"), {"endpointurl": os.environ["AWS_ENDPOINT_URL"]}


def add_remote(repository, address, options):  # noqa: F811
    run("dvc", "remote", "add", "--default", "shared", address, cwd=repository)
    for name, value in options.items():
        run("dvc", "remote", "modify", "shared", name, value, cwd=repository)


def clone_of(repository, folder):  # noqa: F811
    run("git", "clone", "-q", str(repository), str(folder), cwd=folder.parent)
    return folder


@pytest.mark.parametrize("kind", ["local_remote", "s3_remote"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # moto's
def test_a_clone_pulls_everything_and_computes_nothing(kind, repository, tmp_path_factory, request):  # noqa: F811
    add_remote(repository, *request.getfixturevalue(kind))
    set_param(repository, "train.epochs", 1)
    run("dvc", "repro", cwd=repository)
    commit(repository, "results")
    assert "pushed" in run("dvc", "push", cwd=repository)

    clone = clone_of(repository, tmp_path_factory.mktemp("clones") / "second")
    assert not (clone / "data/interim/features.h5").exists()
    run("dvc", "pull", cwd=clone)
    output = run("dvc", "repro", cwd=clone)
    assert "Running stage" not in output
    assert output.count("didn't change, skipping") == STAGES
    for name in ("data/interim/features.h5", "models/captioner.safetensors"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()
    assert not (clone / ".cache").exists(), "images were encoded"

    set_param(clone, "score.beam_size", 2)
    assert "extract" not in repro(clone)


def test_pull_names_what_was_never_pushed(repository, local_remote, tmp_path_factory):  # noqa: F811
    add_remote(repository, *local_remote)
    run("dvc", "repro", "extract", cwd=repository)
    commit(repository, "features")
    clone = clone_of(repository, tmp_path_factory.mktemp("clones") / "second")
    pulled = subprocess.run(["dvc", "pull"], cwd=clone, env=environment(), capture_output=True, text=True, check=False)
    assert pulled.returncode != 0
    assert "data/interim/features.h5" in pulled.stdout + pulled.stderr
