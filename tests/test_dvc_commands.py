"""Real `dvc` commands in a small repository: what runs again, experiments, the feature store, and remotes."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support import ROOT, needs_git, run_program, set_param

pytestmark = [needs_git, pytest.mark.slow]
STAGES = ["code", "prepare", "extract", "vocab", "train", "score", "report"]


@pytest.fixture
def repository(project):
    """A git and dvc repository with this pipeline and a small dataset."""
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    run_program("git", "init", "-q", cwd=project)
    run_program("dvc", "init", "-q", cwd=project)
    commit(project, "start")
    return project


def commit(repository, message):
    run_program("git", "add", "-A", cwd=repository)
    run_program("git", "commit", "-qm", message, cwd=repository)


def replace(repository, name, old, new):
    path = repository / "pipeline" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def stages_run(output):
    """The stages that a dvc command ran, in order; others were unchanged or cached."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]


def repro(repository, *arguments):
    return stages_run(run_program("dvc", "repro", *arguments, cwd=repository))


def extract(repository):
    """The summary of `dvc repro extract`."""
    output = run_program("dvc", "repro", "extract", cwd=repository)
    return next((line for line in output.splitlines() if " from the store, " in line), "nothing to do").split(" in ")[0]


def features(repository):
    return (repository / "data/interim/features.h5").read_bytes()


def add(repository, name):
    pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(repository / "data/tiny/images" / name)
    with (repository / "data/tiny/captions.csv").open("a") as table:
        table.write(f"{name},noise of all colors,train\n")


def test_a_change_of_code_runs_the_stages_that_it_can_affect(repository):
    assert repro(repository) == STAGES
    assert repro(repository) == []
    assert "up to date" in run_program("dvc", "status", cwd=repository)

    replace(repository, "errors.py", "class CaptionerError", "# a comment\nclass CaptionerError")
    replace(repository, "metrics/rouge.py", '"""', '"""Changed. ')
    assert repro(repository) == ["code"]
    assert "up to date" in run_program("dvc", "status", cwd=repository)

    with (repository / "pipeline/report/static/report.css").open("a") as file:
        file.write("body { margin: 0; }\n")
    assert repro(repository) == ["code", "report"]

    with (repository / "pipeline/metrics/rouge.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert repro(repository) == ["code", "score", "report"]

    with (repository / "pipeline/training/schedule.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert repro(repository)[:2] == ["code", "train"]
    assert "up to date" in run_program("dvc", "status", cwd=repository)


def test_experiments_run_in_the_workspace_in_a_copy_and_from_a_queue(repository):
    repro(repository)
    commit(repository, "results")
    changes = ("-S", "decoder.kind=inject", "-S", "train.epochs=1")
    assert stages_run(run_program("dvc", "exp", "run", *changes, cwd=repository)) == ["train", "score", "report"]
    run_program("git", "checkout", "-q", ".", cwd=repository)
    run_program("dvc", "checkout", "-q", cwd=repository)

    output = run_program("dvc", "exp", "run", "--temp", "-S", "score.beam_size=2", cwd=repository)
    assert stages_run(output) == ["score", "report"]
    with (repository / "pipeline/metrics/rouge.py").open("a") as file:
        file.write("# a comment\n")
    output = run_program("dvc", "exp", "run", "--temp", "-S", "score.beam_size=3", cwd=repository)
    assert stages_run(output) == ["code", "score", "report"]

    run_program("dvc", "exp", "run", "--queue", "-S", "score.max_length=4,5", cwd=repository)
    output = run_program("dvc", "exp", "run", "--run-all", cwd=repository)
    assert output.count("Running stage 'score'") == 2
    shown = json.loads(run_program("dvc", "exp", "show", "--json", cwd=repository).split("\n", 0)[0])
    assert len(shown) == 2  # the workspace and the commit with its experiments


def test_extraction_is_incremental(repository):
    assert extract(repository) == "extract: 18 images, 0 from the store, 18 encoded"
    assert extract(repository) == "nothing to do"

    add(repository, "zz-new.png")
    assert extract(repository) == "extract: 19 images, 18 from the store, 1 encoded"
    expected = features(repository)

    set_param(repository, "encoder.grid", 2)
    assert extract(repository) == "extract: 19 images, 0 from the store, 19 encoded"
    set_param(repository, "encoder.grid", 3)
    shutil.rmtree(repository / ".dvc/cache")  # so that the features come from the store, not from the cache of dvc
    (repository / "data/interim/features.h5").unlink()
    output = run_program("dvc", "repro", "-f", "extract", cwd=repository)
    assert "19 from the store, 0 encoded" in output
    assert features(repository) == expected

    shutil.rmtree(repository / ".cache")
    output = run_program("dvc", "repro", "-f", "extract", cwd=repository)
    assert "0 from the store, 19 encoded" in output
    assert features(repository) == expected


def test_an_earlier_training_is_restored_from_the_cache(repository):
    run_program("dvc", "repro", "train", cwd=repository)
    model = (repository / "models/captioner.safetensors").read_bytes()
    set_param(repository, "train.epochs", 1)
    assert "Running stage 'train'" in run_program("dvc", "repro", "train", cwd=repository)
    assert (repository / "models/captioner.safetensors").read_bytes() != model
    set_param(repository, "train.epochs", 3)
    assert "Stage 'train' is cached" in run_program("dvc", "repro", "train", cwd=repository)
    assert (repository / "models/captioner.safetensors").read_bytes() == model


def test_an_experiment_in_a_copy_shares_the_store(repository):
    extract(repository)
    commit(repository, "features")
    output = run_program(
        "dvc", "exp", "run", "--temp", "-S", "vocab.min_count=2", "-S", "train.epochs=1", cwd=repository
    )
    assert "Running stage 'train'" in output
    assert "Running stage 'extract'" not in output
    output = run_program("dvc", "exp", "run", "--temp", "-f", "extract", cwd=repository)
    assert "18 from the store, 0 encoded" in output


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # moto's
def test_a_clone_pulls_everything_from_a_remote_and_computes_nothing(repository, s3_server, tmp_path_factory):
    pytest.importorskip("dvc_s3", reason="needs dvc-s3: pip install -e '.[s3]'")
    run_program("dvc", "remote", "add", "--default", "shared", s3_server.url("cache"), cwd=repository)
    run_program("dvc", "remote", "modify", "shared", "endpointurl", os.environ["AWS_ENDPOINT_URL"], cwd=repository)
    set_param(repository, "train.epochs", 1)
    run_program("dvc", "repro", cwd=repository)
    commit(repository, "results")
    assert "pushed" in run_program("dvc", "push", cwd=repository)

    clone = tmp_path_factory.mktemp("clones") / "second"
    run_program("git", "clone", "-q", str(repository), str(clone), cwd=repository)
    assert not (clone / "data/interim/features.h5").exists()
    run_program("dvc", "pull", cwd=clone)
    output = run_program("dvc", "repro", cwd=clone)
    assert "Running stage" not in output
    assert output.count("didn't change, skipping") == len(STAGES)
    for name in ("data/interim/features.h5", "models/captioner.safetensors"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()
    assert not (clone / ".cache").exists(), "images were encoded"

    set_param(clone, "score.beam_size", 2)
    assert "extract" not in repro(clone)
