"""Choice of the device, its precision, and the number of CPU threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import ParamsError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` prefers CUDA. Raises `ParamsError` if there is no such device.

    A GPU with a number becomes the current one: CUDA graphs and streams belong to the current GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"device {name!r}: must be auto, cpu, mps, cuda or cuda:N") from None
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    exists = present.get(device.type, False)
    if exists and device.type == "cuda" and device.index is not None:
        exists = device.index < torch.cuda.device_count()
    if not exists:
        found = ", ".join(kind for kind, is_present in present.items() if is_present)
        raise ParamsError(f"device {name} is not on this machine (available: {found}); use auto")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


@contextmanager
def single_threaded() -> Iterator[None]:
    """Context manager: torch computes each operation with one thread.

    Results then depend on the type of processor, but not on its number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def engine(device: torch.device) -> str:
    """Describe what the last bits of a result depend on: the version of torch and the processor."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}, {processor}"


@contextmanager
def tensor_float_32() -> Iterator[None]:
    """Context manager: a GPU rounds the factors of float32 matrix products to TF32, which has 10 bits of precision.

    cuDNN's LSTM always does so.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16. Emulation is several times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(supported)


def resolve_precision(precision: str, device: torch.device, name: str) -> str:
    """Return float32 or bfloat16; `auto` takes bfloat16 where the device supports it.

    Raises `ParamsError`, which calls the parameter `name`, if the device does not support bfloat16.
    """
    if precision == "auto":
        return "bfloat16" if supports_bfloat16(device) else "float32"
    if precision == "bfloat16" and not supports_bfloat16(device):
        raise ParamsError(f"{name}: this {device.type} does not support bfloat16 in hardware; use float32 or auto")
    return precision
