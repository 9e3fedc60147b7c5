"""The command line: help, exit codes, and error messages."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, run_command, run_stages, set_param, write_project

from pipeline import __version__, paths
from pipeline.params_file import check_params, read_params


def test_help_lists_every_stage_and_command():
    code, out, _ = run_command("--help")
    assert code == 0
    stages = ("code", "prepare", "extract", "vocab", "train", "score", "report")
    for name in (*stages, "init", "predict", "serve", "export", "compare", "stats", "params", "schema", "cache"):
        assert re.search(rf"^[^\w\n]*{name} ", out, re.MULTILINE), name


def test_the_version_is_that_of_the_package():
    assert run_command("--version") == (0, f"captioner {__version__}\n", "")
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("schema",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_error_line(arguments, unbuffered):
    code, _, err = run_with_streams(">/dev/full", *arguments, cwd=ROOT, PYTHONUNBUFFERED=unbuffered)
    assert (code, err) == (5, "error: standard output: cannot be written: No space left on device\n")


def run_with_streams(redirection, *arguments, cwd, **environment):
    """Run `captioner ...` in a shell with a redirection such as `>&-`: exit code, standard output, standard error."""
    command = f'exec "$0" -m pipeline "$@" {redirection}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_closed_streams_lose_their_lines_only(trained_project):
    arguments = ("predict", "data/tiny/images/001.png", "gone.png")
    code, out, err = run_with_streams(">&-", *arguments, cwd=trained_project)
    assert (code, out) == (3, b"")
    assert "Traceback" not in err
    code, out, err = run_with_streams("2>&-", *arguments, cwd=trained_project)
    assert (code, err) == (3, "")
    assert out.startswith(b"data/tiny/images/001.png: ")
    assert out.count(b"\n") == 1


def test_a_command_goes_on_when_nobody_reads_its_messages(tmp_path):
    write_project(tmp_path)
    set_param(tmp_path, "data.format", "auto")
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "init", "data/tiny"]
    with open(writer, "wb") as messages:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=messages, timeout=120, check=False
        )
    assert done.returncode == 0
    assert read_params(tmp_path / paths.PARAMS).data.format != "auto"


def test_letters_that_standard_output_lacks_are_escaped(trained_project, tmp_path):
    (tmp_path / "\u72ac.png").write_bytes((trained_project / "data/tiny/images/001.png").read_bytes())
    model = str(trained_project / paths.MODEL)
    code, out, err = run_with_streams(
        "", "predict", "--model", model, "\u72ac.png", cwd=tmp_path, PYTHONIOENCODING="latin-1"
    )
    assert (code, "Traceback" in err) == (0, False)
    assert out.startswith(b"\\u72ac.png: ")
    code, out, _ = run_with_streams(
        "", "predict", "--json", "--model", model, "\u72ac.png", cwd=tmp_path, PYTHONIOENCODING="latin-1"
    )
    assert (code, json.loads(out)["image"]) == (0, "\u72ac.png")


def test_a_warning_is_one_line_without_its_place_in_the_code():
    program = (
        "import warnings; from pipeline import cli; cli.app = lambda **options: warnings.warn('be careful'); cli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "warning: be careful\n")


def test_without_a_command_the_help_is_shown():
    code, out, err = run_command()
    assert code == 2
    assert "Usage:" in out + err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["predict"], "Missing "),
        (["predict", "--beam", "0", "x.jpg"], "Invalid value for '--beam'"),
        (["train", "--no"], "No such option: --no"),
        (["extract", "--engine", "gpu"], "Invalid value for '--engine': 'gpu' is not one of 'local', 'ray'"),
    ],
)
def test_wrong_usage_ends_with_two(arguments, problem):
    code, out, err = run_command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {problem}")
    assert err.endswith("; see --help\n")


def test_every_mistake_in_params_is_one_error_line(project):
    set_param(project, "train.epoch", 3)
    set_param(project, "score.beam_size", 0)
    code, _, err = run_command("score")
    assert code == 2
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["error", "params.train.epoch"],
        ["error", "params.score.beam_size"],
    ]


LONG = "photo.jpg " * 30


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", LONG),
        ("predict", "data/tiny/images/001.png", "--csv", LONG),
        ("predict", "data/tiny/images/001.png", "--model", LONG),
        ("predict", "data/tiny/images/001.png", "--attention", LONG),
        ("init", LONG),
        ("score", LONG),
    ],
)
def test_a_name_that_is_too_long_is_one_error_line(trained_project, arguments):
    code, _, err = run_command(*arguments, cwd=trained_project)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in {3, 5}
    assert len(errors) == 1
    assert LONG in errors[0]
    assert "File name too long" in errors[0]


def test_debug_shows_the_traceback(project):
    set_param(project, "train.epoch", 3)
    code, _, err = run_command("--debug", "train")
    assert code == 2
    assert "Traceback" in err


def test_a_missing_params_file_is_named_with_a_remedy(tmp_path):
    expected = "error: params.yaml: no such file; run the command in the folder that holds it\n"
    assert run_command("prepare", cwd=tmp_path) == (2, "", expected)


def test_params_prints_the_complete_file_of_a_recipe(tmp_path):
    recipe = ROOT / "docs/recipes/photos.yaml"
    code, out, _ = run_command("params", str(recipe))
    (tmp_path / "params.yaml").write_text(out)
    assert code == 0
    assert read_params(tmp_path / "params.yaml") == read_params(recipe) != check_params({})


def test_a_missing_model_is_named_with_a_remedy(project, monkeypatch):
    monkeypatch.setattr("pipeline.starter.STARTER_FILE", project / "no-starter")
    code, _, err = run_command("predict", "data/tiny/images/*.png")
    assert code == 4
    assert err.startswith("error: models/captioner.safetensors: ")
    assert "dvc repro" in err


def test_a_damaged_model_ends_with_four(project):
    (project / "models").mkdir()
    (project / "models" / "captioner.safetensors").write_bytes(b"x" * 100)
    code, _, err = run_command("predict", "data/tiny/images/000.png")
    assert code == 4
    assert "models/captioner.safetensors: " in err


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("cuda:7", "device cuda:7 is not on this machine"),
        ("gpu", "device 'gpu': must be auto, cpu, mps, cuda or cuda:N"),
    ],
)
def test_a_device_that_does_not_exist_ends_with_two(trained_project, device, problem):
    code, _, err = run_command("predict", "data/tiny/images/000.png", "--device", device, cwd=trained_project)
    assert code == 2
    assert f"error: {problem}" in err


@pytest.mark.parametrize(
    ("stage", "output"),
    [
        ("prepare", paths.CAPTIONS),
        ("extract", paths.ENCODER),
        ("train", paths.MODEL),
        ("score", paths.EVALUATION),
        ("report", paths.MODEL_CARD),
    ],
)
def test_a_stage_that_cannot_write_fails_before_it_reads(project, stage, output):
    output.parent.parent.mkdir(parents=True, exist_ok=True)
    output.parent.write_text("a file")
    code, _, err = run_command(stage)  # none of the inputs is there
    assert code == 5
    assert f"error: {output}: cannot be written: Not a directory" in err


def test_init_fails_before_it_reads_the_dataset_where_the_params_cannot_be_written(project, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    code, out, err = run_command("init", "data/tiny")
    assert (code, out) == (5, "")
    assert err.startswith("error: params.yaml: cannot be written: Permission denied")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_command_with_its_exit_code(project, number, code, word):
    set_param(project, "train.epochs", 5000)
    set_param(project, "train.patience", 5000)
    run_stages(project, "prepare", "extract", "vocab")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train"], env=environment, stderr=subprocess.PIPE, text=True
    )
    curve = project / "metrics" / "training.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (curve.exists() and curve.read_text().count("\n") > 2):
        time.sleep(0.1)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert err.splitlines()[-1].startswith(f"{word}: finished epochs are kept")
    assert "Traceback" not in err
    assert not (project / "models" / "captioner.safetensors").exists()
