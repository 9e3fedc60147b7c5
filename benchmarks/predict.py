"""How soon a caption comes: a new process, and a loaded model, each beside what it cannot do without.

    python benchmarks/predict.py [--model models/captioner.safetensors] [--pictures data/scenes/images] [--repeats 7]

New processes are measured in turn (one of each, then again), so that what else the machine does falls on all of them;
the figure is the median. Prints the table of docs/benchmarks.md.
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

from pipeline.decoders import make_decoder
from pipeline.device import single_threaded
from pipeline.encoders.encoder import build
from pipeline.inference.captioner import Captioner
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.onnx.captioner import OnnxCaptioner
from pipeline.inference.onnx.export import export_onnx
from pipeline.inference.onnx.quantisation import quantise_encoder
from pipeline.text.vocabulary import SPECIAL_TOKENS, Vocabulary

ROOT = Path(__file__).parent.parent
GOALS = {
    "captioner predict, one picture": 1.45,
    "the same through ONNX Runtime": 0.5,
    "captioner --help": 0.1,
}


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process."""
    before = os.times()
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wall, after = time.perf_counter() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def cold(model: Path, folder: Path, picture: Path, repeats: int) -> None:
    python = sys.executable
    ours = [python, "-m", "pipeline"]
    commands = {
        "import torch": [python, "-c", "import torch"],
        "captioner predict, one picture": [*ours, "predict", "--model", str(model), str(picture)],
        "the same through ONNX Runtime": [
            *ours, "predict", "--runtime", "onnx", "--model", str(folder), str(picture),
        ],
        "captioner --help": [*ours, "--help"],
    }  # fmt: skip
    for command in commands.values():
        seconds(command)  # the files are in the system's cache from here on
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    medians = {name: [statistics.median(one) for one in zip(*times, strict=True)] for name, times in taken.items()}
    roof = medians["import torch"]
    print(f"\n| new process, median of {repeats} | seconds | of `import torch` | goal | processor time |")
    print("|---|---|---|---|---|")
    for name, (wall, processor) in medians.items():
        goal = f"at most {GOALS[name]}" if name in GOALS else ""
        print(f"| {name} | {wall:.2f} | {wall / roof[0]:.2f} | {goal} | {processor / roof[1]:.2f} |")


def least(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def warm(captioner: Captioner, folder: Path, pictures: list[Path], repeats: int, *, longest: int) -> None:
    picture = pictures[0]
    pixels = np.stack([captioner.pixels(picture)])
    exported = OnnxCaptioner.load(folder)
    words = len(captioner.captions([picture], captioner.make_search(max_length=longest))[0][0].words)
    search, greedy = (captioner.make_search(beam_size=beam, max_length=words) for beam in (3, 1))

    def encode() -> None:
        with single_threaded():
            captioner.encoder.encode(pixels)

    works: dict[str, Callable[[], object]] = {
        "the encoder's forward pass alone": encode,
        "a caption (beam 3), file included": lambda: captioner(picture, search),
        "a caption (greedy), file included": lambda: captioner(picture, greedy),
        "the exported encoder alone": lambda: exported.encode(pixels),
        "a caption (beam 3) through ONNX Runtime": lambda: exported(picture, exported.make_search(max_length=words)),
    }
    for work in works.values():
        least(work, 5)
    rounds = [{name: least(work, 3) for name, work in works.items()} for _ in range(repeats)]
    times = {name: statistics.median(one[name] for one in rounds) for name in works}
    roof = times["the encoder's forward pass alone"]
    print(f"\n| loaded model, one picture, {words} words | ms | of the encoder | goal |\n|---|---|---|---|")
    for name, taken in times.items():
        goal = "at most 1.3" if name.startswith("a caption (beam 3), file") else ""
        print(f"| {name} | {taken * 1e3:.1f} | {taken / roof:.2f} | {goal} |")


def resnet(precision: str) -> Captioner:
    """A model of usual size: ResNet-50 at 224 pixels, 3,000 words, captions of 11; untrained, which costs the same."""
    encoder = build(
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
    params |= {"tie_weights": False, "layer_norm": False}
    sizes = {"regions": encoder.regions, "channels": encoder.channels}
    torch.manual_seed(0)
    decoder = make_decoder(params, vocabulary=len(vocabulary), **sizes)
    model = TrainedModel(decoder, params, vocabulary, encoder.spec, **sizes, encoder_tensors=None, trained_on={})
    return Captioner(model, encoder, torch.device("cpu"))


def parity(captioner: Captioner, folder: Path, pictures: list[Path]) -> None:
    exported = OnnxCaptioner.load(folder)
    pixels = np.stack([captioner.pixels(picture) for picture in pictures])
    ours, theirs = captioner.describe(pixels), exported.describe(pixels)
    same = sum(one.text == other.text for (one,), (other,) in zip(ours, theirs, strict=True))
    worst = max(abs(one.score - other.score) for (one,), (other,) in zip(ours, theirs, strict=True))
    print(
        f"\nSame caption from torch ({captioner.spec.precision}) and the float32 export: {same} of {len(pictures)}; ",
        end="",
    )
    print(f"scores differ by {worst:.1e} at most")
    found = quantise_encoder(folder, pictures, agreement=0)
    print(f"8-bit encoder: {found.agreement:.0%} of {found.compared} captions the same, ", end="")
    whole = (folder / "encoder.onnx").stat().st_size / 1e6
    print(f"{found.speed:.1f} times as fast, {found.megabytes:.1f} MB of {whole:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "captioner.safetensors")
    parser.add_argument("--pictures", type=Path, default=ROOT / "data" / "scenes" / "images")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    pictures = sorted(path for path in given.pictures.iterdir() if path.suffix in {".png", ".jpg"})[-100:]
    captioner = Captioner.load(given.model, device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_onnx(captioner, folder)
        print(f"{captioner.spec.name} at {captioner.spec.transform.size} pixels, {captioner.spec.precision}")
        cold(given.model.resolve(), folder, pictures[0], given.repeats)
        warm(captioner, folder, pictures, given.repeats, longest=30)
        for precision in ("auto", "float32"):
            usual = resnet(precision)
            print(f"\nResNet-50 at 224 pixels in {usual.spec.precision}, decoder of 512 in float32, 3,000 words:")
            export_onnx(usual, folder / precision)
            warm(usual, folder / precision, pictures, given.repeats, longest=11)
        parity(captioner, folder, pictures)


if __name__ == "__main__":
    main()
