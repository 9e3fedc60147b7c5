"""The same bits each time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Within, torch chooses algorithms that give the same bits each time, on `threads` threads (0: all cores)."""
    before = torch.get_num_threads()
    _fill_fresh_memory(False)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        _fill_fresh_memory(True)
        torch.set_num_threads(before)


def _fill_fresh_memory(fill: bool) -> None:
    """Whether torch fills, while it is deterministic, memory that is about to be written anyway: its default."""
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
