"""Latency of a caption, in a new process and with a loaded model, beside a lower bound.

    python benchmarks/predict.py [--model models/captioner.safetensors] [--images data/scenes/images] [--repeats 7]

The commands are measured in turn, so that other load on the machine affects all of them; figures are medians. Prints
the tables of docs/benchmarks.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.decoders.registry import make_decoder
from pipeline.device import single_threaded
from pipeline.encoders.encoder import build_encoder
from pipeline.inference.base_captioner import open_image
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.onnx.captioner import OnnxCaptioner
from pipeline.inference.onnx.export import export_onnx
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS

ROOT = Path(__file__).parent.parent


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return time.perf_counter() - began


def cold(model: Path, folder: Path, image: Path, repeats: int) -> None:
    python = sys.executable
    ours = [python, "-m", "pipeline"]
    commands = {
        "import torch": [python, "-c", "import torch"],
        "captioner predict, one image": [*ours, "predict", "--model", str(model), str(image)],
        "the same through ONNX Runtime": [
            *ours, "predict", "--runtime", "onnx", "--model", str(folder), str(image),
        ],
        "captioner --help": [*ours, "--help"],
    }  # fmt: skip
    for command in commands.values():
        seconds(command)  # fills the file cache of the system
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(f"\n| new process, median of {repeats} | seconds | of `import torch` |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / medians['import torch']:.2f} |")


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def warm(captioner: Captioner, folder: Path, images: list[Path], repeats: int, *, max_length: int) -> None:
    image = images[0]
    pixels = np.stack([captioner.preprocess(open_image(image))])
    exported = OnnxCaptioner.load(folder)
    words = len(captioner.captions([image], captioner.generation_options(max_length=max_length))[0][0].tokens)
    search, greedy = (captioner.generation_options(beam_size=beam, max_length=words) for beam in (3, 1))

    def encode() -> None:
        with single_threaded():
            captioner.encoder.encode(pixels)

    works: dict[str, Callable[[], object]] = {
        "the encoder's forward pass alone": encode,
        "a caption (beam 3), file included": lambda: captioner(image, search),
        "a caption (greedy), file included": lambda: captioner(image, greedy),
        "the exported encoder alone": lambda: exported.encode(pixels),
        "a caption (beam 3) through ONNX Runtime": lambda: exported(
            image, exported.generation_options(max_length=words)
        ),
    }
    for work in works.values():
        median_seconds(work, 5)
    rounds = [{name: median_seconds(work, 3) for name, work in works.items()} for _ in range(repeats)]
    times = {name: statistics.median(one[name] for one in rounds) for name in works}
    bound = times["the encoder's forward pass alone"]
    print(f"\n| loaded model, one image, {words} words | ms | of the encoder |\n|---|---|---|")
    for name, taken in times.items():
        print(f"| {name} | {taken * 1e3:.1f} | {taken / bound:.2f} |")


def resnet(precision: str) -> Captioner:
    """An untrained model of common size: ResNet-50 at 224 pixels, a vocabulary of 3,000 words."""
    encoder = build_encoder(
        name="resnet50",
        weights="none",
        layer="layer4",
        grid=7,
        image_size=224,
        fit="crop",
        precision=precision,
        seed=0,
        device=torch.device("cpu"),
    )
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *(f"word{number}" for number in range(3000))), (0,) * 3004, "ptb")
    params = {"kind": "attention", "embed": 256, "hidden": 512, "attention": 512}
    params |= dict.fromkeys(("feature_dropout", "embedding_dropout", "output_dropout"), 0.0)
    sizes = {"regions": encoder.regions, "channels": encoder.channels}
    torch.manual_seed(0)
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    model = TrainedModel(
        decoder, params, vocabulary, encoder.spec, **sizes, encoder_tensors=None, params={}, trained_on={}
    )
    return Captioner(model, encoder, torch.device("cpu"))


def parity(captioner: Captioner, folder: Path, images: list[Path]) -> None:
    exported = OnnxCaptioner.load(folder)
    pixels = np.stack([captioner.preprocess(open_image(image)) for image in images])
    ours, theirs = captioner.caption_pixels(pixels), exported.caption_pixels(pixels)
    same = sum(one.text == other.text for (one,), (other,) in zip(ours, theirs, strict=True))
    worst = max(abs(one.score - other.score) for (one,), (other,) in zip(ours, theirs, strict=True))
    print(
        f"\nSame caption from torch ({captioner.spec.precision}) and the float32 export: {same} of {len(images)}; ",
        end="",
    )
    print(f"scores differ by {worst:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "captioner.safetensors")
    parser.add_argument("--images", type=Path, default=ROOT / "data" / "scenes" / "images")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    images = sorted(path for path in given.images.iterdir() if path.suffix in {".png", ".jpg"})[-100:]
    captioner = Captioner.load(given.model, device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "onnx"
        export_onnx(captioner, folder)
        print(f"{captioner.spec.name} at {captioner.spec.preprocessing.size} pixels, {captioner.spec.precision}")
        cold(given.model.resolve(), folder, images[0], given.repeats)
        warm(captioner, folder, images, given.repeats, max_length=30)
        for precision in ("auto", "float32"):
            usual = resnet(precision)
            print(f"\nResNet-50 at 224 pixels in {usual.spec.precision}, decoder of 512 in float32, 3,000 words:")
            export_onnx(usual, folder.with_name(precision))
            warm(usual, folder.with_name(precision), images, given.repeats, max_length=11)
        parity(captioner, folder, images)


if __name__ == "__main__":
    main()
