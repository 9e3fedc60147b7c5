"""The exported encoder in 8-bit integers: smaller and faster, and kept only where the captions stay what they were.

The ranges of values come from pictures (calibration); other pictures then tell whether the captions agree.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.files import write_bytes
from pipeline.inference.base_captioner import Pixels
from pipeline.inference.onnx.captioner import ENCODER, ENCODER_INT8, OnnxCaptioner

LEAST = 8
"""Pictures to calibrate with, and as many to compare on."""
BATCH = 16


@dataclass(frozen=True)
class Quantised:
    """How the 8-bit encoder compares."""

    agreement: float
    """The share of the compared pictures whose best caption is the same word for word."""
    compared: int
    speed: float
    """How many times as fast one picture is encoded."""
    megabytes: float
    kept: bool


class _Calibration:
    """Pictures as onnxruntime's quantisation asks for them."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = iter(pixels[start : start + 1] for start in range(len(pixels)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def quantise_encoder(folder: Path, pictures: Sequence[Path], *, agreement: float) -> Quantised:
    """Write encoder-int8.onnx into an exported folder if at least a share of `agreement` of the captions stays.

    Every second one of `pictures` calibrates, the others are compared. Raises `DataError` when there are too few.
    """
    captioner = OnnxCaptioner.load(folder)
    pixels = _readable(captioner, pictures)
    if len(pixels) < 2 * LEAST:
        raise DataError(f"--int8: {len(pixels)} usable pictures, at least {2 * LEAST} are needed")
    calibrating, comparing = pixels[::2], pixels[1::2]
    content = _quantised(folder / ENCODER, calibrating)
    path = folder / ENCODER_INT8
    write_bytes(path, content)
    small = OnnxCaptioner.load(folder, int8=True)
    same = sum(a == b for a, b in zip(_texts(captioner, comparing), _texts(small, comparing), strict=True))
    share = same / len(comparing)
    result = Quantised(
        agreement=share,
        compared=len(comparing),
        speed=_seconds(captioner, comparing[:1]) / _seconds(small, comparing[:1]),
        megabytes=len(content) / 1e6,
        kept=share >= agreement,
    )
    if not result.kept:
        path.unlink()
    return result


def _quantised(encoder: Path, calibrating: Pixels) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as temporary:
        prepared, written = Path(temporary) / "prepared.onnx", Path(temporary) / "int8.onnx"
        quant_pre_process(encoder, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            written,
            _Calibration(calibrating),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
        return written.read_bytes()


def _readable(captioner: OnnxCaptioner, pictures: Sequence[Path]) -> Pixels:
    size = captioner.spec.transform.size
    found = []
    for picture in pictures:
        try:
            found.append(captioner.pixels(picture))
        except DataError:
            continue  # some of the pictures are enough
    return np.stack(found) if found else np.zeros((0, size, size, 3), np.uint8)


def _texts(captioner: OnnxCaptioner, pixels: Pixels) -> list[str]:
    batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
    return [best.text for batch in batches for best, *_ in captioner.describe(batch)]


def _seconds(captioner: OnnxCaptioner, pixels: Pixels) -> float:
    """The least of several, of one encoding."""
    taken = []
    for _ in range(12):
        began = time.perf_counter()
        captioner.encode(pixels)
        taken.append(time.perf_counter() - began)
    return min(taken)
