"""What one machine computed, another one fetches: real `dvc push` and `pull` between two clones."""

import shutil

import pytest
from conftest import set_param
from test_dvc_commands import dvc, environment, repository, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(not (dvc and shutil.which("git")), reason="needs dvc and git")

ACCOUNT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def local_remote(tmp_path_factory):
    return str(tmp_path_factory.mktemp("remote")), {}


@pytest.fixture
def s3_remote(monkeypatch):
    """A server that speaks S3's protocol, on the loopback interface."""
    pytest.importorskip("dvc_s3", reason="needs dvc-s3: pip install -e '.[s3]'")
    server = pytest.importorskip("moto.server", reason="needs moto: pip install -e '.[dev]'")
    import boto3

    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    serving = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="captions")
    yield "s3://captions/cache", {"endpointurl": address}
    client.close()
    serving.stop()


@pytest.mark.parametrize("kind", ["local_remote", "s3_remote"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # moto's
def test_a_second_clone_has_nothing_to_compute(kind, repository, tmp_path_factory, request):  # noqa: F811
    place, options = request.getfixturevalue(kind)
    run("dvc", "remote", "add", "--default", "shared", place, cwd=repository)
    for name, value in options.items():
        run("dvc", "remote", "modify", "shared", name, value, cwd=repository)
    set_param(repository, "train.epochs", 1)
    run("dvc", "repro", cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-qm", "results", cwd=repository)
    assert "pushed" in run("dvc", "push", cwd=repository)

    clone = tmp_path_factory.mktemp("clones") / "second"
    run("git", "clone", "-q", str(repository), str(clone), cwd=tmp_path_factory.getbasetemp())
    assert not (clone / "data/interim/features.h5").exists()
    run("dvc", "pull", cwd=clone)
    said = run("dvc", "repro", cwd=clone)
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == 5
    for name in ("data/interim/features.h5", "models/captioner.safetensors"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()
    assert not (clone / ".cache").exists(), "nothing was encoded"

    set_param(clone, "score.beam_size", 2)
    assert "Running stage 'extract'" not in run("dvc", "repro", cwd=clone)


def test_what_was_never_pushed_is_said_and_not_computed_in_silence(repository, local_remote, tmp_path_factory):  # noqa: F811
    import subprocess

    run("dvc", "remote", "add", "--default", "shared", local_remote[0], cwd=repository)
    run("dvc", "repro", "extract", cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-qm", "features", cwd=repository)
    clone = tmp_path_factory.mktemp("clones") / "second"
    run("git", "clone", "-q", str(repository), str(clone), cwd=tmp_path_factory.getbasetemp())
    pulled = subprocess.run(["dvc", "pull"], cwd=clone, env=environment(), capture_output=True, text=True, check=False)
    assert pulled.returncode != 0
    assert "data/interim/features.h5" in pulled.stdout + pulled.stderr
