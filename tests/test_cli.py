"""The command line: exit codes, where it prints, and what it says of mistakes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_command, set_param


def test_help_lists_the_stages_and_predict():
    code, out, _ = run_command("--help")
    assert code == 0
    for name in ("prepare", "extract", "vocab", "train", "score", "predict"):
        assert name in out


def test_help_does_not_load_torch():
    program = "import sys; from pipeline.cli import app; app(['--help'], standalone_mode=False); "
    program += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0


def test_a_params_typo_ends_with_two_and_no_traceback(project):
    set_param(project, "train.epoch", 3)
    code, out, said = run_command("train", cwd=project)
    assert (code, out) == (2, "")
    assert said == "error: params.train.epoch: unknown parameter; did you mean 'epochs'?\n"


def test_debug_shows_the_traceback(project):
    set_param(project, "train.epoch", 3)
    code, _, said = run_command("--debug", "train", cwd=project)
    assert code == 2
    assert "Traceback" in said


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["predict"], ["predict", "--beam", "0", "x.jpg"], ["train", "--no"]]
)
def test_wrong_usage_ends_with_two(arguments):
    code, _, said = run_command(*arguments)
    assert code == 2
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_a_missing_params_file_says_what_to_do(tmp_path):
    code, _, said = run_command("prepare", cwd=tmp_path)
    assert code == 2
    assert said == "error: params.yaml: no such file; run the command in the folder that holds it\n"


def test_a_picture_that_is_not_there_ends_with_three(tmp_path):
    code, _, said = run_command("predict", "nowhere.jpg", cwd=tmp_path)
    assert code == 3
    assert said == "error: nowhere.jpg: no picture there; give a file, a folder or a quoted glob pattern\n"


def test_a_missing_model_says_how_to_make_one(project):
    code, _, said = run_command("predict", "data/tiny/images/*.png", cwd=project)
    assert code == 3
    assert (
        said == "error: models/captioner.safetensors: no such model; `dvc repro` makes models/captioner.safetensors\n"
    )


def test_a_damaged_model_ends_with_four(project):
    (project / "models").mkdir()
    (project / "models" / "captioner.safetensors").write_bytes(b"x" * 100)
    code, _, said = run_command("predict", "data/tiny/images/000.png", cwd=project)
    assert code == 4
    assert "models/captioner.safetensors: not a model of captioner" in said


def test_a_device_that_is_not_there_ends_with_two(project):
    set_param(project, "run.device", "cuda:7")
    run_command("prepare", cwd=project)
    code, _, said = run_command("extract", cwd=project)
    assert code == 2
    assert "device cuda:7 is not on this machine" in said


def test_a_device_that_is_none_ends_with_two(trained_project):
    code, _, said = run_command("predict", "data/tiny/images/000.png", "--device", "gpu", cwd=trained_project)
    assert code == 2
    assert "error: device 'gpu': must be auto, cpu, mps, cuda or cuda:N" in said


def test_a_folder_where_an_output_belongs_ends_with_five(project):
    (project / "data/interim/captions.csv").mkdir(parents=True)
    code, _, said = run_command("prepare", cwd=project)
    assert code == 5
    assert "data/interim/captions.csv: a folder stands where a file is to be written" in said


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(project, number, code, word):
    set_param(project, "train.epochs", 5000)
    set_param(project, "train.patience", 5000)
    for stage in ("prepare", "extract", "vocab"):
        assert run_command(stage, cwd=project)[0] == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train"], cwd=project, env=environment, stderr=subprocess.PIPE, text=True
    )
    curve = project / "metrics" / "training.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (curve.exists() and curve.read_text().count("\n") > 2):
        time.sleep(0.1)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code
    assert said.splitlines()[-1].startswith(word)
    assert "Traceback" not in said
    assert not (project / "models" / "captioner.safetensors").exists()
