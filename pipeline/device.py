"""Which device to compute on, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import ParamsError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises `ParamsError` when a device asked for by name is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = present.get(device.type, False)
    if there and device.type == "cuda" and device.index is not None:
        there = device.index < torch.cuda.device_count()
    if not there:
        found = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ParamsError(f"params.run.device: {name} is not on this machine (found: {found}); use auto")
    return device


@contextmanager
def single_compute_thread() -> Iterator[None]:
    """Within, every thread computes alone: a row's bits then depend on the processor, not on its number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
