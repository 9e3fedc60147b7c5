"""Runs `check_fused_kernels.py` in a process of its own: Triton decides at its import whether it interprets kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="this build of torch has no Triton")


def test_kernels_compute_what_the_plain_form_does():
    checks = Path(__file__).with_name("check_fused_kernels.py")
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(checks)],
        env={**os.environ, **interpret},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
