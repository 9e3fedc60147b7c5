"""Rates and memory of extraction, and what they mean for 10^5 to 10^7 images.

    python benchmarks/scale.py [--images 100000]

Measures decoding, encoding, writing and hashing. Runs the commands `prepare` and `extract` on growing numbers of small
images, up to `--images`, and measures their memory. Prints the tables of docs/scale.md.
"""

import argparse
import csv
import hashlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from extract import decode_alone, draw, forward_alone, from_the_store, ours
from PIL import Image
from ruamel.yaml import YAML

from pipeline.encoders.encoder import Encoder, build_encoder

ROOT = Path(__file__).parent.parent
LARGE = {"name": "resnet50", "weights": "none", "layer": "layer4", "grid": 7, "image_size": 224, "fit": "crop"}
"""The encoder of the tables."""
SMALL = {
    "name": "mobilenet_v3_small",
    "weights": "none",
    "layer": "auto",
    "grid": 1,
    "image_size": 64,
    "fit": "stretch",
    "precision": "float32",
}
"""The encoder of the runs, fast enough for 100,000 images."""


@dataclass(frozen=True)
class Rates:
    """Images per second of CPU time of one core."""

    decode: float
    encode: float
    write: float
    """From the feature store to features.h5, checksums included."""
    write_elapsed: float
    """Images per second of elapsed time on all cores, waiting for the disk included."""

    @property
    def extract(self) -> float:
        """Of a core that does all three."""
        return 1 / (1 / self.decode + 1 / self.encode + 1 / self.write)


def measure_rates(encoder: Encoder, paths: list[Path], folder: Path, cores: int, repeats: int) -> Rates:
    """Measure each rate `repeats` times and keep the best: other processes only slow it down."""
    folder.mkdir()
    ours(paths, encoder, folder)  # fills the store
    stored = [from_the_store(paths, encoder, folder) for _ in range(repeats)]
    return Rates(
        decode=max(decode_alone(paths[:48], encoder, cores).per_cpu_second for _ in range(repeats)),
        encode=max(forward_alone(encoder, 32, cores).per_cpu_second for _ in range(repeats)),
        write=max(clock.per_cpu_second for clock in stored),
        write_elapsed=max(clock.rate for clock in stored),
    )


def measure_md5(size: int = 1 << 28) -> float:
    """Bytes per second of md5, with which DVC identifies files."""
    content = bytes(size)
    began = time.perf_counter()
    hashlib.md5(content, usedforsecurity=False)
    return size / (time.perf_counter() - began)


def draw_small_images(folder: Path, first: int, last: int) -> None:
    """Draw different JPEGs of 64 x 48 pixels."""
    for number in range(first, last):
        path = folder / f"{number // 1000:06d}" / f"{number:09d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(content, "JPEG", quality=85)
        path.write_bytes(content.getvalue())


@dataclass(frozen=True)
class Command:
    """What a command used."""

    seconds: float
    cpu_seconds: float
    anonymous: int
    """Peak memory in bytes, without mapped files."""
    resident: int
    """Peak memory in bytes, with the pages of mapped files."""
    output: str
    """The last line."""


def run_command(stage: str, folder: Path) -> Command:
    """Run a stage in `folder` in a process of its own and sample its memory."""
    cpu_before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", stage],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CAPTIONER_CACHE": str(folder / "store")},
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks = {"RssAnon:": 0, "VmHWM:": 0}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.05):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, *values = line.split()
                if name in peaks:
                    peaks[name] = max(peaks[name], int(values[0]) * 1024)

    sampler = threading.Thread(target=sample)
    sampler.start()
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()  # returns when the process ends
    ended.set()
    sampler.join()
    if process.wait():
        raise SystemExit("\n".join(lines))
    seconds, cpu = time.perf_counter() - began, os.times()
    cpu_seconds = cpu.children_user + cpu.children_system - cpu_before.children_user - cpu_before.children_system
    return Command(seconds, cpu_seconds, peaks["RssAnon:"], peaks["VmHWM:"], lines[-1])


def run_stages(folder: Path, images: Path, count: int) -> tuple[Command, Command]:
    """Run prepare and extract on the first `count` small images, with an empty store."""
    folder.mkdir()
    params = {
        "data": {"format": "table", "captions": "captions.csv", "images": str(images)},
        "encoder": SMALL,
        "run": {"device": "cpu", "workers": 0},
    }
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number in range(count):
            name = f"{number // 1000:06d}/{number:09d}.jpg"
            table.writerow([name, "an image", ("train", "val", "test")[number % 3]])
    prepare, extract = run_command("prepare", folder), run_command("extract", folder)
    print(f"  {count:,} images: prepare {prepare.seconds:.1f} s; {extract.output}", flush=True)
    return prepare, extract


def as_volume(size: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9)):
        if size >= length:
            return f"{size / length:,.3g} {unit}"
    return f"{size / 1e6:,.3g} MB"


def as_duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{seconds:.0f} s"


def print_rates(rates: Rates, row_bytes: int, md5: float) -> None:
    print("\n| | images/s of one core |\n|---|---|")
    print(f"| decode | {rates.decode:,.0f} |\n| encode | {rates.encode:,.1f} |")
    print(f"| write from the store to features.h5 | {rates.write:,.0f} |\n| all three | {rates.extract:,.1f} |")
    print(f"\nwriting on all cores: {rates.write_elapsed * row_bytes / 1e6:,.0f} MB/s; md5: {md5 / 1e6:,.0f} MB/s\n")


def print_runs(runs: dict[int, tuple[Command, Command]]) -> float:
    """Print time and memory of each run and return the bytes of memory per image."""
    print("\n| images | prepare | extract | CPU time | memory | with mapped files |\n" + 6 * "|---" + "|")
    for count, (prepare, extract) in runs.items():
        print(f"| {count:,} | {prepare.seconds:.1f} s | {extract.seconds:.1f} s | {extract.cpu_seconds:.1f} s ", end="")
        print(f"| {extract.anonymous / 1e6:,.0f} MB | {extract.resident / 1e6:,.0f} MB |")
    (least, (_, first)), *_, (most, (_, last)) = runs.items()
    per_image = max(0, last.anonymous - first.anonymous) / (most - least)
    print(f"\nmemory: {per_image:,.0f} bytes per image")
    return per_image


def print_sizes(rates: Rates, image_bytes: float, row_bytes: int, memory: float, md5: float) -> None:
    print("\n| images | CPU time | size of the images | of the features | md5 by DVC | memory for ids |")
    print("|---|---|---|---|---|---|")
    for power in range(5, 8):
        count = 10**power
        print(f"| 10^{power} | {as_duration(count / rates.extract)} | {as_volume(count * image_bytes)} ", end="")
        print(f"| {as_volume(count * row_bytes)} | {as_duration(count * row_bytes / md5)} ", end="")
        print(f"| {as_volume(count * memory)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "large").mkdir()
        paths = draw(folder / "large", 96, 96)
        image_bytes = statistics.mean(path.stat().st_size for path in paths)
        encoder = build_encoder(**LARGE, precision="auto", seed=1, device=cpu)
        row_bytes = encoder.regions * encoder.channels * 2
        print(f"{encoder.engine}; {cores} cores, load {os.getloadavg()[0]:.1f}; best of {options.repeats}")
        print(
            f"{encoder.spec.name}, {encoder.regions} regions of {encoder.channels}, {encoder.spec.precision}; ", end=""
        )
        print(f"images of {image_bytes / 1000:.0f} kB, features of {row_bytes / 1000:.0f} kB per image")
        rates = measure_rates(encoder, paths, folder / "rates", cores, options.repeats)
        md5 = max(measure_md5() for _ in range(options.repeats))
        print_rates(rates, row_bytes, md5)

        small = folder / "small"
        starts = range(0, options.images, 5000)
        ends = [min(start + 5000, options.images) for start in starts]
        with ProcessPoolExecutor(cores) as pool:
            list(pool.map(draw_small_images, [small] * len(ends), starts, ends))
        counts = [options.images // share for share in (100, 10, 4, 1)]
        runs = {count: run_stages(folder / str(count), small, count) for count in counts}
        memory = print_runs(runs)
        print_sizes(rates, image_bytes, row_bytes, memory, md5)


if __name__ == "__main__":
    main()
