"""JPEGs unpacked by a GPU: the only place that knows torchcodec, which is in the extra `gpu`."""

from collections.abc import Callable

import torch
from torch import Tensor

Decode = Callable[[list[Tensor]], list[Tensor]]
"""From JPEG files, as bytes in the host's memory, to pixels (3, H, W) on the device."""


def device_decoder(device: torch.device) -> Decode | None:
    """JPEGs on the device, where there is what it takes: CUDA and torchcodec."""
    if device.type != "cuda":
        return None
    try:
        from torchcodec.decoders import decode_jpeg
    except Exception:  # also when it is installed but does not fit this torch
        return None

    def decode(files: list[Tensor]) -> list[Tensor]:
        # nvJPEG's hardware engine does not wait for what is queued before it, so the host has to.
        torch.cuda.current_stream(device).synchronize()
        decoded: list[Tensor] = decode_jpeg(files, mode="RGB", device=device)
        return decoded

    return decode


def decoder_name(device: torch.device) -> str:
    """What the engine says of it; empty without one."""
    if device_decoder(device) is None:
        return ""
    from importlib.metadata import version

    return f"torchcodec {version('torchcodec')}"
