"""The kernels for GPUs, in processes of their own: Triton decides at its import whether it interprets kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="this build of torch has no Triton")
HERE = Path(__file__).parent


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_compute_what_the_plain_form_does():
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", HERE / "check_fused_kernels.py", **interpret)


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    compiled = run(HERE / "compile_kernels.py", TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(HERE.parent.parent))
    assert len(compiled.splitlines()) == 14
