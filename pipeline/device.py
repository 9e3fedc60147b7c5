"""Which device to compute on, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import ParamsError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises `ParamsError` when a device asked for by name is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"device {name!r}: must be auto, cpu, mps, cuda or cuda:N") from None
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = present.get(device.type, False)
    if there and device.type == "cuda" and device.index is not None:
        there = device.index < torch.cuda.device_count()
    if not there:
        found = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ParamsError(f"device {name} is not on this machine (found: {found}); use auto")
    return device


@contextmanager
def single_threaded() -> Iterator[None]:
    """Within, every thread computes alone: a row's bits then depend on the processor, not on its number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def engine(device: torch.device) -> str:
    """What last bits depend on: the version of torch and the processor that compute."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}, {processor}"


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; elsewhere it is emulated, several times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(supported)


def resolve_precision(precision: str, device: torch.device, name: str) -> str:
    """`auto` made definite: float32 or bfloat16. Raises `ParamsError`, calling the parameter `name`."""
    if precision == "auto":
        return "bfloat16" if supports_bfloat16(device) else "float32"
    if precision == "bfloat16" and not supports_bfloat16(device):
        raise ParamsError(
            f"{name}: this {device.type} has no bfloat16 arithmetic and would be slower with it; use float32 or auto"
        )
    return precision
