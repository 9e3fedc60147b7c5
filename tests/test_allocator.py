"""What a process does with the memory that it frees."""

import platform
import subprocess
import sys

import pytest

from pipeline import allocator

KEPT = """
import sys
from pathlib import Path
import torch
from pipeline.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    keep_freed_memory()
held = torch.ones(6_000_000)
with_it = resident()
del held
print((with_it - resident()) * 4096 < 12_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
@pytest.mark.parametrize(("how", "kept"), [("keep", "True"), ("give back", "False")])
def test_memory_that_was_freed_stays_with_the_process(how, kept):
    done = subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == kept


def test_where_the_c_library_cannot_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()
