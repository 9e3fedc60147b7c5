"""NVIDIA's nvImageCodec, which decodes JPEGs on a GPU (extra `gpu`)."""

from importlib import metadata
from typing import Any

import torch

from pipeline.errors import ParamsError


def check_nvimgcodec(device: torch.device) -> None:
    """Raise `ParamsError` unless nvImageCodec can be used on `device`."""
    if device.type != "cuda":
        raise ParamsError("params.encoder.jpeg_decoder: nvimgcodec needs an NVIDIA GPU; set it to pillow")
    try:
        from nvidia import nvimgcodec as _  # noqa: F401
    except ImportError as error:
        raise ParamsError(
            f"params.encoder.jpeg_decoder: {error}; run `pip install -e '.[gpu]'` in the checkout, or set it to pillow"
        ) from error


def nvimgcodec_version() -> str:
    """Name and version of the installed package; empty without one."""
    for package in ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12"):
        try:
            return f"nvimgcodec {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            pass
    return ""


def make_nvimgcodec_decoder(device: torch.device) -> Any:
    """A decoder that interpolates chroma as Pillow does.

    Decoding runs on the CUDA cores: they fill pixels without data with one color, which reveals damage. The JPEG engine
    is as fast but leaves old memory there; Huffman decoding on the CPU leaves noise.
    """
    from nvidia import nvimgcodec

    number = torch.cuda.current_device() if device.index is None else device.index
    backends = [nvimgcodec.Backend(nvimgcodec.BackendKind.HYBRID_CPU_GPU)]
    options = ":fancy_upsampling=1 nvjpeg_cuda_decoder:hybrid_huffman_threshold=0"
    return nvimgcodec.Decoder(device_id=number, backends=backends, options=options)
