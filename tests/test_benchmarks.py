"""benchmarks/gpu.py runs on a CPU, and its exit code reports failed checks."""

import subprocess
import sys

import pytest
import torch
from support import ROOT


@pytest.fixture
def gpu(monkeypatch):
    """The module benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return gpu


def exit_code(gpu):
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    return stopped.value.code


def test_curves_that_differ_fail_the_run(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "measure", gpu.check_loss_curves)
    curves = iter([[3.0, 2.0], [3.0, 2.1]] * 2 * len(gpu.DECODERS))
    monkeypatch.setattr(gpu, "loss_curve", lambda *arguments, **options: (next(curves), False))
    assert exit_code(gpu) == 1
    monkeypatch.setattr(gpu, "loss_curve", lambda *arguments, **options: ([3.0, 2.0], False))
    assert exit_code(gpu) == 0


def test_an_exception_ends_its_part_and_fails_the_run(gpu, monkeypatch, capsys):
    def measure(run):
        with gpu.part(run, "broken"):
            raise RuntimeError("out of luck")
        with gpu.part(run, "sound"):
            run.check("sum", True, "2")

    monkeypatch.setattr(gpu, "measure", measure)
    assert exit_code(gpu) == 1
    printed = capsys.readouterr().out
    assert "out of luck" in printed
    assert "FAILED  broken" in printed
    assert "ok      sum: 2" in printed


@pytest.mark.slow
def test_the_whole_benchmark_runs_on_a_cpu():
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("ok      trained again", "| ours, updown, float32", "0 checks failed"):
        assert expected in done.stdout
