"""Everything that a GPU must show, in one command: equal results first, then speed and memory.

    python benchmarks/gpu.py [--device auto] [--small]

Prints one line per check and the tables of docs/benchmarks.md. Exit code 1 if results differ or a part fails. Sized for
six minutes on an H100 with 16 cores; needs neither dvc nor a network. A CPU, or `--small`, gets a small version, in
which speeds mean nothing.
"""

import argparse
import contextlib
import dataclasses
import gc
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import extract as extract_benchmark
import numpy as np
import search as search_benchmark
import torch
import train as train_benchmark
from PIL import Image
from torch import Tensor

from pipeline.accel.decoders import accelerate
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.sampling import sampling_noise
from pipeline.decoders.search import SamplingOptions, SearchOptions
from pipeline.device import choose_device, engine, supports_bfloat16
from pipeline.encoders.encoder import Encoder, build_encoder
from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.encoders.nvimgcodec import make_nvimgcodec_decoder
from pipeline.features.extraction import extract_features
from pipeline.features.feature_file import FeatureFile
from pipeline.features.gpu_decoding import CORNER, JpegDecoder
from pipeline.features.image_batches import ImageFile
from pipeline.files import sha256_of
from pipeline.metrics.cider import CiderD
from pipeline.params import Params
from pipeline.params_file import check_params
from pipeline.stages.train import TrainFiles
from pipeline.stages.train import train as train_stage
from pipeline.training import caption_sampler, feature_source
from pipeline.training.batches import Batches
from pipeline.training.determinism import deterministic
from pipeline.training.distributed import ProcessGroup
from pipeline.training.feature_source import ResidentFeatures
from pipeline.training.losses import Reward
from pipeline.training.trainer import Trainer, TrainingData

ROOT = Path(__file__).resolve().parent.parent
GRAPH_TOLERANCE = 1e-3
"""Largest relative difference of an epoch's loss between CUDA graphs and plain steps on one device."""
CPU_TOLERANCE = 1e-2
"""The same between a GPU and a CPU: rounding grows over the steps of a training."""
COSINE = 0.9999
"""Smallest cosine of an image's features on two devices."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    train: train_benchmark.Sizes
    train_batches: tuple[int, ...]
    seconds: float
    """Per training measurement."""
    extraction: list[str]
    """Arguments of benchmarks/extract.py."""
    encoder: str
    layer: str
    search_images: int
    """Of beam search; a self-critical epoch has half of them."""
    vocabulary: int
    scenes: dict[str, int]
    """Images per split of the built-in dataset."""
    params: dict[str, dict[str, Any]]
    """Differences to the shipped params.yaml, by section."""
    epochs: int
    """Epochs of the runs whose bytes are compared."""


FULL = Scale(
    train=train_benchmark.Sizes(),
    train_batches=(64, 1024),
    seconds=0.5,
    extraction=["--images", "16000", "--distinct", "1000", "--other-images", "1000", "--repeats", "1", "--grid", "1"],
    encoder="resnet50",
    layer="layer4",
    search_images=512,
    vocabulary=3000,
    scenes={"train": 1000, "val": 100, "test": 100},
    params={},
    epochs=4,
)
SMALL = Scale(
    train=train_benchmark.Sizes(hidden=16, embed=16, words=60),
    train_batches=(32,),
    seconds=0.01,
    extraction=["--images", "48", "--distinct", "8", "--other-images", "8", "--repeats", "1", "--grid", "1"],
    encoder="squeezenet1_1",
    layer="auto",
    search_images=4,
    vocabulary=60,
    scenes={"train": 24, "val": 6, "test": 2},
    params={
        "encoder": {"name": "alexnet", "image_size": 64, "grid": 2},
        "decoder": {"embed": 8, "hidden": 16, "attention": 8},
        "train": {"epochs": 3},
    },
    epochs=3,
)


@dataclass
class Run:
    """The device, a folder for files, and the checks that failed so far."""

    device: torch.device
    scale: Scale
    folder: Path
    failures: list[str] = field(default_factory=list)

    def check(self, name: str, passed: bool, detail: str) -> None:
        """Print the result of a check, and remember a failure."""
        print(f"{'ok    ' if passed else 'FAILED'}  {name}: {detail}", flush=True)
        if not passed:
            self.failures.append(name)


# --- training: equal curves


class NoValidation:
    """Training alone is compared."""

    max_length = 20
    score_decides = False

    def cider_d(self, decoder: object) -> float:
        return 0.0

    def loss(self, decoder: object) -> float:
        return 0.0


def make_trainer(
    params: Params, vocabulary: int, features: Tensor, batches: Batches, reward: Reward, processes: ProcessGroup
) -> Trainer:
    """A trainer on features (N, R, C)."""
    torch.manual_seed(0)
    _, regions, channels = features.shape
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=vocabulary, regions=regions, channels=channels)
    decoder.to(processes.device)
    data = TrainingData(ResidentFeatures(decoder.pool(features).to(processes.device)), batches, reward)
    return Trainer(decoder, data, NoValidation(), params.train, seed=1, processes=processes)  # type: ignore[arg-type]


def without_graphs(trainer: Trainer) -> None:
    trainer.graphed_step = trainer.sampler.graphs = None


def noise_of_cpu(decoder: Decoder, rows: int, options: SamplingOptions, generator: torch.Generator) -> Iterator[Tensor]:
    """The noise that a CPU draws, on the device of `generator`."""
    on_cpu = torch.Generator().manual_seed(generator.initial_seed())
    for noise in sampling_noise(decoder, rows, options, on_cpu):
        yield noise.to(generator.device)


def share_of_even_tokens(images: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
    """A reward."""
    return torch.tensor([sum(token % 2 == 0 for token in caption) / (len(caption) + 1) for caption in captions])


def loss_curve(
    kind: str, device: torch.device, *, graphs: bool, self_critical: bool = False
) -> tuple[list[float], bool]:
    """The training loss of each epoch on random captions, and whether the steps were CUDA graphs to the end.

    With `self_critical` it is the negative mean reward of self-critical epochs, which follow one with cross-entropy.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 7, (100,), generator=generator).tolist()
    captions = [[1, *torch.randint(4, 40, (length,), generator=generator).tolist(), 2] for length in lengths]
    features = torch.randn(20, 4, 16, generator=generator)
    plain = {"feature_dropout": 0.0, "embedding_dropout": 0.0, "output_dropout": 0.0}  # devices draw other numbers
    train = {"epochs": 5, "batch_size": 16, "ema": 0.9, "bag_of_words": 0.1, "precision": "float32"}
    if self_critical:
        train |= {"epochs": 1, "scst": {"epochs": 4, "lr": 5e-3, "samples": 4, "cross_entropy": 0.2}}
    params = check_params({"decoder": {"kind": kind, "embed": 32, "hidden": 64, **plain}, "train": train})
    batches = Batches(captions, [number // 5 for number in range(100)], batch_size=16, seed=1)
    trainer = make_trainer(params, 40, features, batches, share_of_even_tokens, ProcessGroup(device))
    if not graphs:
        without_graphs(trainer)
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # an LSTM may round to TF32 on a GPU otherwise
    with exact, deterministic(1), patch.object(caption_sampler, "sampling_noise", noise_of_cpu):
        trainer.run()
    history = trainer.history.epochs
    curve = [-one.reward for one in history[1:]] if self_critical else [one.train_loss for one in history]
    return curve, trainer.graphed_step is not None


def largest_difference(curve: list[float], other: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(one - two) / abs(two) for one, two in zip(curve, other, strict=True))


def check_loss_curves(run: Run) -> None:
    for kind, self_critical in product(DECODERS, (False, True)):
        name = f"reward of {kind}" if self_critical else f"loss of {kind}"
        curve = partial(loss_curve, kind, self_critical=self_critical)
        on_cpu, _ = curve(torch.device("cpu"), graphs=False)
        plain, _ = curve(run.device, graphs=False)
        difference = largest_difference(plain, on_cpu)
        run.check(f"{name}, {run.device.type} and CPU", difference < CPU_TOLERANCE, f"differ by {difference:.1e}")
        run.check(f"{name} improves", on_cpu[-1] < on_cpu[0], f"{abs(on_cpu[0]):.3f} to {abs(on_cpu[-1]):.3f}")
        if run.device.type != "cuda":
            continue
        graphed, captured = curve(run.device, graphs=True)
        run.check(f"{name}, CUDA graphs", captured, "captured" if captured else "not captured")
        difference = largest_difference(graphed, plain)
        tolerance = CPU_TOLERANCE if self_critical else GRAPH_TOLERANCE  # rounding changes a sample now and then
        run.check(f"{name}, graphs and plain steps", difference < tolerance, f"differ by {difference:.1e}")


# --- training: equal bytes, on the built-in dataset


def draw_dataset(run: Run) -> Path:
    """Draw the built-in dataset into a project of its own and run the stages before `train`."""
    from ruamel.yaml import YAML

    yaml = YAML()
    project = run.folder / "project"
    scenes = project / "data" / "scenes"
    scenes.mkdir(parents=True)
    shutil.copy(ROOT / "data/scenes/draw.py", scenes)
    drawn = yaml.load(ROOT / "data/scenes/params.yaml")
    drawn["scenes"].update(run.scale.scenes)
    yaml.dump(drawn, scenes / "params.yaml")
    runpy.run_path(str(scenes / "draw.py"), run_name="__main__")
    params = yaml.load(ROOT / "params.yaml")
    for section, changes in run.scale.params.items():
        params[section].update(changes)
    params["run"]["device"] = str(run.device)
    yaml.dump(params, project / "params.yaml")
    for stage in ("prepare", "extract", "vocab"):
        run_stage(project, stage)
    return project


def start_stage(project: Path, stage: str, *arguments: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment |= {"PYTHONPATH": path, "CAPTIONER_CACHE": str(project / "cache")}
    command = [sys.executable, "-m", "pipeline", stage, *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_stage(project: Path, stage: str, *arguments: str) -> str:
    """Run a stage in a new process and return what it prints. Raises `RuntimeError`."""
    began, process = time.perf_counter(), start_stage(project, stage, *arguments)
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{stage} ended with exit code {process.returncode}:\n{printed}")
    print(f"stage {stage}: {time.perf_counter() - began:.1f} s", flush=True)
    return printed


def trained_bytes(project: Path) -> bytes:
    """The outputs of `train`, which are deleted."""
    outputs = [project / "models/captioner.safetensors", project / "metrics/training.csv"]
    content = b"".join(path.read_bytes() for path in outputs)
    for path in outputs:
        path.unlink()
    return content


def check_bytes(run: Run, project: Path) -> None:
    """Train, then train again, killed after the second epoch and resumed: the outputs are the same bytes."""
    from ruamel.yaml import YAML

    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["train"].update(epochs=run.scale.epochs, average_best=2, ema=0.9)
    params["train"]["scst"]["epochs"] = 1
    yaml.dump(params, project / "short.yaml")
    table = project / "metrics/training.csv"

    def train() -> str:
        return run_stage(project, "train", "--params", "short.yaml")

    train()
    once = trained_bytes(project)
    process = start_stage(project, "train", "--params", "short.yaml")
    while process.poll() is None and not (table.exists() and table.read_text().count("\n") > 2):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    run.check(
        "training killed", process.returncode < 0, "after the second epoch" if process.returncode < 0 else "ended"
    )
    table.unlink(missing_ok=True)
    printed = train()
    run.check("training resumed", "resumes an interrupted run" in printed, "instead of started again")
    run.check("trained again", trained_bytes(project) == once, f"{len(once):,} bytes of model and metrics")
    with contextlib.chdir(project), patch.object(feature_source, "_fits", lambda size, device: False):
        train_stage(TrainFiles(), check_params(params), processes=ProcessGroup(run.device))
    run.check("trained with features read batch by batch", trained_bytes(project) == once, "the same bytes")


def time_builtin_dataset(run: Run, project: Path) -> None:
    """Seconds to train the built-in dataset with the shipped params, in this process."""
    from ruamel.yaml import YAML

    params = check_params(YAML(typ="safe", pure=True).load(project / "params.yaml"))
    with contextlib.chdir(project):
        began = time.perf_counter()
        report = train_stage(TrainFiles(), params, processes=ProcessGroup(run.device))
        seconds = time.perf_counter() - began
    best = report.best
    print(
        f"the built-in dataset trains in {seconds:.1f} s: {report.epochs} epochs of {report.captions} captions, "
        f"val CIDEr-D {best.val_cider_d:.1f}, {best.tokens_per_second:,.0f} tokens/s in the best epoch"
    )


# --- extraction


def make_encoder(run: Run, device: torch.device, precision: str, jpeg_decoder: str = "pillow") -> Encoder:
    return build_encoder(
        name=run.scale.encoder,
        weights="none",
        layer=run.scale.layer,
        grid=1,
        image_size=224,
        fit="crop",
        precision=precision,
        seed=1,
        device=device,
        jpeg_decoder=jpeg_decoder,  # type: ignore[arg-type]
    )


def draw_kinds(folder: Path) -> list[Path]:
    """JPEGs of several sizes, subsampled in three ways, baseline and progressive."""
    folder.mkdir()
    paths = []
    for number, (width, subsampling, progressive) in enumerate(
        product((200, 375, 500, 1023), ("4:4:4", "4:2:2", "4:2:0"), (False, True))
    ):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        image = coarse.resize((width, 401 + number), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.jpg")
        image.save(paths[-1], quality=90, subsampling=subsampling, progressive=progressive)
    return paths


def check_extraction(run: Run) -> None:
    """Rows on the device equal those of another run bit for bit, and those of the CPU closely."""
    folder = run.folder / "extraction"
    folder.mkdir()
    (folder / "images").mkdir()
    paths = extract_benchmark.draw(folder / "images", 70, 20) + draw_kinds(folder / "kinds")
    images = [ImageFile(str(number), path, sha256_of(path)) for number, path in enumerate(paths)]

    def features(encoder: Encoder, name: str, workers: int) -> tuple[bytes, np.ndarray[Any, Any]]:
        out = folder / f"{name}.h5"
        extract_features(images, encoder, out, store=folder / name, workers=workers)
        file = FeatureFile.open(out)
        return out.read_bytes(), file.load([image.image for image in images]).astype(np.float64).reshape(
            len(images), -1
        )

    _, on_cpu = features(make_encoder(run, torch.device("cpu"), "float32"), "cpu", 2)
    kinds = [("float32", "pillow")]
    if supports_bfloat16(run.device):
        kinds.append(("bfloat16", "pillow"))
    if extract_benchmark.has_nvimgcodec(run.device):
        kinds.append(("float32", "nvimgcodec"))
    for precision, decoder in kinds:
        name = f"{precision}, {decoder}"
        encoder = make_encoder(run, run.device, precision, decoder)
        content, rows = features(encoder, f"{name}, 2", 2)
        images.reverse()  # other batches
        again, _ = features(encoder, f"{name}, 3", 3)
        images.reverse()
        run.check(f"extraction again, {name}", content == again, f"{len(content):,} bytes, in other batches")
        cosine = np.sum(rows * on_cpu, 1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(on_cpu, axis=1))
        passed = bool(cosine.min() > (COSINE if precision == "float32" else 1 - 20 * (1 - COSINE)))
        run.check(f"features of {name} and of the CPU", passed, f"cosine at least {cosine.min():.7f}")


def check_pixels(run: Run) -> None:
    """Pixels of nvImageCodec and of Pillow, before and after resizing."""
    if not extract_benchmark.has_nvimgcodec(run.device):
        return
    paths = draw_kinds(run.folder / "kinds")
    contents = [path.read_bytes() for path in paths]
    pillow = [decode_image(content) for content in contents]
    encoder = make_encoder(run, run.device, "float32", "nvimgcodec")
    decoder = JpegDecoder(encoder.spec.preprocessing, run.device)
    decoded = make_nvimgcodec_decoder(run.device).decode(contents)
    resized = decoder.decode(list(map(extract_benchmark.in_memory, contents)))
    refused = sum(image is None for image in resized)
    corners = [np.asarray(image)[-CORNER:, -CORNER:].reshape(-1, 3) for image in pillow]
    flat = sum(bool((corner == corner[-1]).all()) for corner in corners)
    run.check("JPEGs decoded on the device", refused == flat, f"{refused} of {len(paths)} left to Pillow: flat corners")
    for name, ours, theirs in (
        ("decoded", decoded, pillow),
        ("decoded and resized", resized, [preprocess_image(image, encoder.spec.preprocessing) for image in pillow]),
    ):
        differences = [
            np.abs(np.asarray(one.cpu()).astype(int) - np.asarray(two)).max()
            for one, two in zip(ours, theirs, strict=True)
            if one is not None
        ]
        largest = max(differences, default=0)
        run.check(f"pixels {name} by nvImageCodec and Pillow", largest <= 3, f"differ by at most {largest}")
    damaged = []
    for content in contents[::2]:  # the baseline ones, in which Pillow finds this damage as well
        half = content[: len(content) // 2] + b"\xff\xd9"
        without_middle = content[: len(content) // 3] + content[len(content) * 2 // 3 :]
        damaged += list(map(extract_benchmark.in_memory, (half, without_middle)))
    found = decoder.decode(damaged)
    again = decoder.decode(damaged[::-1])[::-1]
    same = all(
        one is two or (one is not None and two is not None and torch.equal(one, two))
        for one, two in zip(found, again, strict=True)
    )
    print(f"JPEGs cut or without their middle: {found.count(None)} of {len(found)} left to Pillow")
    run.check("damaged JPEGs decoded again, in another order", same, "the same pixels" if same else "other pixels")


def measure_extraction(run: Run) -> None:
    arguments = [
        *run.scale.extraction,
        "--name",
        run.scale.encoder,
        "--layer",
        run.scale.layer,
        "--device",
        str(run.device),
    ]
    given = extract_benchmark.parse_arguments(arguments)
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        encoder = make_encoder(run, run.device, "auto")
        best = extract_benchmark.measure(given, encoder, os.cpu_count() or 1, Path(folder))
        extract_benchmark.print_table(best, os.cpu_count() or 1)


# --- speed of training and search


def measure_training(run: Run) -> None:
    for batch in run.scale.train_batches:
        sizes = dataclasses.replace(run.scale.train, batch=batch)
        rates = train_benchmark.measure_training(sizes, run.device, run.scale.seconds)
        print(f"\ntraining, hidden {sizes.hidden}, {sizes.words} words, batch {batch}\n")
        train_benchmark.print_table(rates)
        tokens = 30_000 * 11.8  # Flickr8k's training captions, with EOS
        precision = "tf32" if run.device.type == "cuda" else "float32"
        seconds = tokens / rates[f"ours, attention, {precision}"]
        print(f"\nan epoch of 30,000 captions, attention, {precision}: {seconds:.1f} s")


def measure_self_critical(run: Run) -> None:
    """Seconds of an epoch that samples five captions per image and computes their CIDEr-D."""
    sizes, batch, images = run.scale.train, run.scale.train_batches[0], run.scale.search_images // 2
    data = train_benchmark.Data(sizes.words, batch, run.device)
    captions = [one.tolist() for one in data.captions[: 5 * images]]

    def text(caption: Sequence[int]) -> str:
        return " ".join(map(str, caption))

    texts = [text(caption[1:-1]) for caption in captions]
    cider = CiderD([texts[start : start + 5] for start in range(0, len(texts), 5)])

    def reward(images: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
        return torch.from_numpy(cider.score_many(images.numpy(), list(map(text, captions))))

    print(f"\n| self-critical epoch, {images} images, batch {batch} | plain steps | CUDA graphs |\n|---|---|---|")
    for kind in ("inject", "attention"):
        decoder = {"kind": kind, "hidden": sizes.hidden, "embed": sizes.embed}
        params = check_params({"decoder": decoder, "train": {"batch_size": batch, "precision": "float32"}})
        batches = Batches(captions, data.images[: len(captions)], batch_size=batch, seed=1)
        seconds = ["-", "-"]
        for graphs in (False, True)[: 1 + (run.device.type == "cuda")]:
            trainer = make_trainer(params, sizes.words, data.features, batches, reward, ProcessGroup(run.device))
            if not graphs:
                without_graphs(trainer)
            trainer.cross_entropy_epochs = 1  # as if they had ended
            trainer.run_epoch()  # captures the graphs
            seconds[graphs] = f"{trainer.run_epoch().seconds:.2f} s"
        print(f"| {kind} | {seconds[0]} | {seconds[1]} |", flush=True)


def measure_search(run: Run) -> None:
    """Beam search beside one image at a time, both on the device."""
    print("\n| beam search, beam 5 | images/s | of one at a time | same captions |\n|---|---|---|---|")
    options = SearchOptions(beam_size=5, max_length=20, length_penalty=0.7)
    features = torch.randn(run.scale.search_images, 49, 1280, device=run.device)
    few = features[:16]
    for kind in DECODERS:
        decoder = search_benchmark.build(kind, run.scale.vocabulary).to(run.device)
        alone, expected = search_benchmark.images_per_second(
            lambda decoder=decoder: search_benchmark.one_at_a_time(decoder, few, options), run.device, repeats=1
        )
        print(f"| {kind}, one image at a time | {alone:,.1f} | 1.0 | |")
        if run.device.type == "cuda":
            accelerate(decoder, run.device)
        for batch in (64, 256)[: 1 + (run.scale is FULL)]:

            def search(decoder: Any = decoder, batch: int = batch) -> list[tuple[int, ...]]:
                return search_benchmark.batched(decoder, features, options, batch, "float32")

            rate, found = search_benchmark.images_per_second(search, run.device, repeats=2)
            same = sum(one == two for one, two in zip(expected, found, strict=False)) / len(expected)
            print(f"| {kind}, batches of {batch} | {rate:,.1f} | {rate / alone:.1f} | {same:.0%} |", flush=True)
            if run.device.type == "cpu":  # a GPU rounds products of other sizes differently, which breaks near ties
                run.check(f"beam search of {kind}", same == 1, "finds the captions of one image at a time")


# --- the whole


@contextlib.contextmanager
def part(run: Run, name: str) -> Iterator[None]:
    """Print a part's time and peak memory. A failure ends the part, not the run."""
    print(f"\n== {name}", flush=True)
    gc.collect()  # graphs of the part before keep their memory until then
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)
    began = time.perf_counter()
    try:
        yield
    except Exception:
        traceback.print_exc(file=sys.stdout)
        run.check(name, False, "raised an exception")
    on_device = ""
    if run.device.type == "cuda":
        on_device = f", {torch.cuda.max_memory_allocated(run.device) / 2**30:.1f} GiB on the device"
    print(f"-- {time.perf_counter() - began:.1f} s{on_device}", flush=True)


def measure_builtin_dataset(run: Run) -> None:
    project = draw_dataset(run)
    time_builtin_dataset(run, project)
    check_bytes(run, project)


def measure(run: Run) -> None:
    parts: dict[str, Callable[[Run], None]] = {
        "training: loss curves": check_loss_curves,
        "training: the built-in dataset": measure_builtin_dataset,
        "training: speed": measure_training,
        "self-critical training": measure_self_critical,
        "extraction: pixels": check_pixels,
        "extraction: features": check_extraction,
        "extraction: speed": measure_extraction,
        "beam search": measure_search,
    }
    for name, measured in parts.items():
        with part(run, name):
            measured(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="check that everything runs; always so on a CPU")
    given = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    device = choose_device(given.device)
    scale = SMALL if given.small or device.type != "cuda" else FULL
    print(f"{engine(device)}; {os.cpu_count()} cores; {'small' if scale is SMALL else 'full'}")
    began = time.perf_counter()
    if scale is SMALL:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(device, scale, Path(folder))
        measure(run)
    print(f"\n{time.perf_counter() - began:.0f} s in all; {len(run.failures)} checks failed")
    for name in run.failures:
        print(f"FAILED  {name}")
    raise SystemExit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
