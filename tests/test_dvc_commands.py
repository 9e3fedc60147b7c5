"""The cache as its users meet it: real `dvc` commands in a repository of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, set_param
from PIL import Image

dvc = shutil.which("dvc", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
pytestmark = pytest.mark.skipif(not (dvc and shutil.which("git")), reason="needs dvc and git")


def environment():
    folder = os.path.dirname(sys.executable)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }


def run(*arguments, cwd):
    done = subprocess.run(arguments, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def repository(project):
    """A git and dvc repository with the project's pipeline and a small dataset."""
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    run("git", "init", "-q", cwd=project)
    run("dvc", "init", "-q", cwd=project)
    run("git", "add", "-A", cwd=project)
    run("git", "commit", "-qm", "start", cwd=project)
    return project


def extract(repository):
    """What `dvc repro extract` says of its pictures."""
    said = run("dvc", "repro", "extract", cwd=repository)
    return next((line for line in said.splitlines() if " from the store, " in line), "nothing to do").split(" in ")[0]


def features(repository):
    return (repository / "data/interim/features.h5").read_bytes()


def add(repository, name):
    pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(repository / "data/tiny/images" / name)
    with (repository / "data/tiny/captions.csv").open("a") as table:
        table.write(f"{name},noise of all colours,train\n")


def test_the_cache_is_incremental_through_dvc(repository):
    assert extract(repository) == "extract: 18 images, 0 from the store, 18 encoded"
    first = features(repository)
    assert extract(repository) == "nothing to do"

    add(repository, "zz-new.png")
    assert extract(repository) == "extract: 19 images, 18 from the store, 1 encoded"
    grown = features(repository)

    images, table = repository / "data/tiny/images", repository / "data/tiny/captions.csv"
    (images / "000.png").rename(images / "renamed.png")
    table.write_text(table.read_text().replace("000.png", "renamed.png"))
    assert extract(repository) == "extract: 19 images, 19 from the store, 0 encoded"

    (images / "renamed.png").rename(images / "000.png")
    table.write_text(table.read_text().replace("renamed.png", "000.png"))
    assert extract(repository) == "extract: 19 images, 19 from the store, 0 encoded"
    assert features(repository) == grown

    (images / "zz-new.png").unlink()
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "zz-new" not in line))
    extract(repository)
    assert features(repository) == first

    set_param(repository, "encoder.grid", 2)
    assert extract(repository) == "extract: 18 images, 0 from the store, 18 encoded"
    set_param(repository, "encoder.grid", 3)
    shutil.rmtree(repository / ".dvc/cache")  # so that the store has to answer, not dvc's own memory
    (repository / "data/interim/features.h5").unlink()
    said = run("dvc", "repro", "-f", "extract", cwd=repository)
    assert "18 from the store, 0 encoded" in said
    assert features(repository) == first

    shutil.rmtree(repository / ".cache")
    said = run("dvc", "repro", "-f", "extract", cwd=repository)
    assert "0 from the store, 18 encoded" in said
    assert features(repository) == first


def test_going_back_to_an_earlier_training_trains_nothing(repository):
    run("dvc", "repro", "train", cwd=repository)
    model = (repository / "models/captioner.safetensors").read_bytes()
    set_param(repository, "train.epochs", 1)
    assert "Running stage 'train'" in run("dvc", "repro", "train", cwd=repository)
    assert (repository / "models/captioner.safetensors").read_bytes() != model
    set_param(repository, "train.epochs", 3)
    assert "Stage 'train' is cached" in run("dvc", "repro", "train", cwd=repository)
    assert (repository / "models/captioner.safetensors").read_bytes() == model


def test_an_experiment_in_a_copy_shares_the_store(repository):
    extract(repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-qm", "features", cwd=repository)
    said = run("dvc", "exp", "run", "--temp", "-S", "vocab.min_count=2", "-S", "train.epochs=1", cwd=repository)
    assert "Running stage 'train'" in said
    assert "Running stage 'extract'" not in said
    said = run("dvc", "exp", "run", "--temp", "-f", "extract", cwd=repository)
    assert "18 from the store, 0 encoded" in said


def test_a_run_that_was_killed_goes_on_where_it_was(repository):
    expected_from = repository / "expected.h5"
    extract(repository)
    shutil.copy(repository / "data/interim/features.h5", expected_from)
    shutil.rmtree(repository / ".cache")
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(repository / ".dvc/tmp")
    (repository / "data/interim/features.h5").unlink()
    (repository / "dvc.lock").unlink()
    set_param(repository, "run.workers", 1)
    set_param(repository, "run.extract_batch", 1)
    slow = repository / "pipeline/features/batch.py"
    source = slow.read_text()
    slow.write_text(
        source.replace("import hashlib\n", "import hashlib\nimport time\n").replace(
            "    places, found, bad = [], [], {}\n", "    time.sleep(0.5)\n    places, found, bad = [], [], {}\n"
        )
    )
    assert slow.read_text() != source
    running = subprocess.Popen(
        ["dvc", "repro", "extract"],
        cwd=repository,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    from pipeline.features.store_inventory import stored_encoders

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(one.pictures for one in stored_encoders(repository / ".cache/features")):
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    slow.write_text(source)
    shutil.rmtree(repository / ".dvc/tmp", ignore_errors=True)  # dvc's own lock, which dvc does not free when killed
    said = extract(repository)
    known = int(said.split(" from the store")[0].split()[-1])
    assert 0 < known < 18
    assert said == f"extract: 18 images, {known} from the store, {18 - known} encoded"
    assert features(repository) == expected_from.read_bytes()
