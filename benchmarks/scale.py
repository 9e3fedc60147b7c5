"""How long, how much and what binds, from 10^5 to 10^9 pictures: rates measured here, a model of them, and one check.

    python benchmarks/scale.py [--pictures 100000] [--plot docs/images/memory.png]

Measures decode, forward, write, hand-over and hash rates; runs the real `prepare` and `extract` on small pictures in
growing numbers, up to `--pictures`; compares the largest with what the rates predict, and notes the memory of each.
Then prints the tables of docs/scale.md for the clusters below. Times vary with what else the machine does.
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
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from extract import decode_alone, draw, forward_alone, from_the_store, ours
from PIL import Image
from ruamel.yaml import YAML

from pipeline.encoders.encoder import Encoder, build

ROOT = Path(__file__).parent.parent
NETWORK = {"name": "resnet50", "weights": "none", "layer": "layer4", "grid": 7, "image_size": 224, "fit": "crop"}
"""Of the plan; the check takes a small one, so that 100,000 pictures are a matter of minutes."""
SMALL = {"name": "mobilenet_v3_small", "weights": "none", "layer": "auto", "grid": 1, "image_size": 64, "fit": "squash"}
SHARD = 1 << 30
"""Bytes of one file of features."""


@dataclass(frozen=True)
class Cluster:
    """A number of equal machines. Bytes per second are each machine's; prices are assumptions to replace by yours."""

    name: str
    machines: int
    cores: int
    gpus: int
    read: float
    write: float
    dollars: float
    """Of one machine for one hour."""
    memory: float = 0
    disk: float = 0
    """Bytes; 0 where pictures and features stream through from and to an object store."""


CLUSTERS = (
    Cluster("laptop: 8 cores, 16 GB, disk of 1 TB", 1, 8, 0, 2e9, 1e9, 0, 16e9, 1e12),
    Cluster("1 machine: 16 cores, 1 GPU, 128 GB, disk of 8 TB", 1, 16, 1, 2e9, 1e9, 3, 128e9, 8e12),
    Cluster("10 machines of 32 cores, object store at 10 Gbit/s", 10, 32, 0, 1.25e9, 1.25e9, 1.5),
    Cluster("8 machines of 96 cores and 8 GPUs, object store at 100 Gbit/s", 8, 96, 8, 12.5e9, 12.5e9, 40),
)
CLUSTER_START = 60.0
"""Seconds until several machines work: an assumption."""
GPU_FORWARD = 17_000.0
"""Pictures per second of ResNet-50 on a large GPU: an assumption, not measured here."""
REQUEST = 0.4e-6
"""Dollars to read one picture from an object store: an assumption; tar files of many pictures need fewer requests."""


@dataclass(frozen=True)
class Rates:
    """Pictures per second, of one core by its own time: what others take of the machine does not count."""

    decode: float
    forward: float
    write: float
    """Rows from the store to features.h5, with the pictures' hashes and the rows' checksums."""
    wall: float
    """The same by the clock, on all cores: with the waiting for the disk."""
    hand_over: float
    """One pair of processes: decoded pictures from one to the other."""

    @property
    def of_a_core(self) -> float:
        """Where the same cores do everything."""
        return 1 / (1 / self.decode + 1 / self.forward + 1 / self.write)


def measure(encoder: Encoder, paths: list[Path], folder: Path, cores: int, repeats: int) -> Rates:
    """The best of some turns: what else runs beside only takes."""
    some = paths[:48]
    decode = max(decode_alone(some, encoder, cores).per_cpu_second for _ in range(repeats))
    forward = max(forward_alone(encoder, 32, cores).per_cpu_second for _ in range(repeats))
    folder.mkdir()
    ours(paths, encoder, folder)
    stored = [from_the_store(paths, encoder, folder) for _ in range(repeats)]
    write, wall = max(one.per_cpu_second for one in stored), max(one.rate for one in stored)
    size = encoder.spec.transform.size
    return Rates(decode, forward, write, wall, max(handed_over(size) for _ in range(repeats)))


def handed_over(size: int, batch: int = 16, batches: int = 100) -> float:
    """Pictures per second from a process that decodes to one that computes, copied as bytes between them."""
    receiving, sending = Pipe(duplex=False)
    process = Process(target=_send, args=(sending, size, batch, batches + 1))
    process.start()
    pixels = np.empty((batch, size, size, 3), np.uint8)
    receiving.recv_bytes_into(memoryview(pixels).cast("B"))  # the start of the process is no part of it
    began = time.perf_counter()
    for _ in range(batches):
        receiving.recv_bytes_into(memoryview(pixels).cast("B"))
    rate = batch * batches / (time.perf_counter() - began)
    process.join()
    return rate


def _send(connection: Connection, size: int, batch: int, batches: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    for _ in range(batches):
        connection.send_bytes(memoryview(pixels).cast("B"))


def hashed(size: int = 1 << 28) -> float:
    """Bytes per second of md5, by which dvc knows a file."""
    content = bytes(size)
    began = time.perf_counter()
    hashlib.md5(content, usedforsecurity=False)
    return size / (time.perf_counter() - began)


def small_picture(number: int) -> bytes:
    """64 x 48 pixels, no two alike."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def draw_small(folder: Path, first: int, last: int) -> None:
    for number in range(first, last):
        place = folder / f"{number // 1000:06d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:09d}.jpg").write_bytes(small_picture(number))


@dataclass(frozen=True)
class Peak:
    """The most memory of a process, in bytes."""

    own: int
    """What no file could give back."""
    whole: int
    """With the pages of files that it has mapped."""


@dataclass(frozen=True)
class Measured:
    """One size."""

    pictures: int
    prepare: float
    extract: float
    """Seconds from the start of the command to its end."""
    busy: float
    """Seconds of processor time that `extract` took."""
    peak: Peak


def watched(stage: str, folder: Path) -> tuple[float, Peak, str]:
    """Seconds and memory of a stage in a process of its own, and what it said last."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", stage],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CAPTIONER_CACHE": str(folder / "store")},
        stderr=subprocess.PIPE,
        text=True,
    )
    own = whole = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal own, whole
        status = Path(f"/proc/{process.pid}/status")
        while not ended.wait(0.05):
            lines = (line.split() for line in status.read_text().splitlines())
            held = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in {"RssAnon:", "VmHWM:"}}
            own, whole = max(own, held.get("RssAnon:", 0)), max(whole, held.get("VmHWM:", 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stderr is not None
    said = process.stderr.read().splitlines()  # until it ends
    ended.set()
    watcher.join()
    if process.wait():
        raise SystemExit("\n".join(said))
    return time.perf_counter() - began, Peak(own, whole), said[-1]


def run(folder: Path, drawn: Path, count: int) -> Measured:
    """The real stages on the first `count` small pictures, nothing of them known before."""
    folder.mkdir()
    content = YAML().load(ROOT / "params.yaml")
    content["data"] |= {"format": "table", "captions": "captions.csv", "images": str(drawn)}
    content["encoder"] |= {**SMALL, "precision": "float32"}
    content["run"] |= {"device": "cpu", "workers": 0}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(content, file)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        names = (f"{number // 1000:06d}/{number:09d}.jpg" for number in range(count))
        table.writerows([name, "a picture", ("train", "val", "test")[place % 3]] for place, name in enumerate(names))
    prepare, _, _ = watched("prepare", folder)
    before = processor_time()
    extract, peak, said = watched("extract", folder)
    busy = processor_time() - before
    print(f"  {count:,} pictures: prepare {prepare:.1f} s, {said}; {peak.own / 1e6:,.0f} MB of its own", flush=True)
    return Measured(count, prepare, extract, busy, peak)


def processor_time() -> float:
    """Of the processes that were started here and have ended."""
    used = os.times()
    return used.children_user + used.children_system


def plot(sizes: list[Measured], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), constrained_layout=True)
    pictures = [one.pictures for one in sizes]
    axes.plot(pictures, [one.peak.whole / 1e6 for one in sizes], "o-", label="with mapped files")
    axes.plot(pictures, [one.peak.own / 1e6 for one in sizes], "o-", label="its own")
    axes.set(xscale="log", xlabel="pictures", ylabel="peak memory of extract (MB)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def parts(cluster: Cluster, rates: Rates, picture: float, row: float) -> dict[str, float]:
    """What each part of a cluster allows, in pictures per second."""
    if cluster.gpus:
        machine = {
            "decode": cluster.cores * rates.decode,
            "forward": cluster.gpus * GPU_FORWARD,
            "hand-over": cluster.cores / 2 * rates.hand_over,  # pairs of processes
        }
    else:
        machine = {"forward": cluster.cores * rates.of_a_core}
    machine |= {"reading pictures": cluster.read / picture, "writing features": cluster.write / row}
    return {name: cluster.machines * rate for name, rate in machine.items()}


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}" if seconds >= 20 * length else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def volume(size: float) -> str:
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= length:
            return f"{size / length:,.3g} {unit}"
    return f"{size / 1e6:,.3g} MB"


def too_small(cluster: Cluster, pictures: float, features: float, listed: float) -> str:
    """What of a machine that keeps everything itself cannot hold it; nothing when it fits."""
    if cluster.disk and pictures + 2 * features > cluster.disk:  # in the store, and in features.h5
        return f"disk: {volume(pictures + 2 * features)} are needed"
    if cluster.memory and listed > cluster.memory:
        return f"memory: the list of pictures takes {volume(listed)}"
    return ""


def predict(rates: Rates, picture: float, row: float, per_image: float, md5: float, start: float) -> None:
    print("\n| pictures | cluster | time | what binds | next | machines' price |\n|---|---|---|---|---|---|")
    for power in range(5, 10):
        count = 10**power
        for cluster in CLUSTERS:
            if small := too_small(cluster, count * picture, count * row, count * per_image):
                print(f"| 10^{power} | {cluster.name} | does not fit | {small} | | |")
                continue
            allowed = sorted(parts(cluster, rates, picture, row).items(), key=lambda part: part[1])
            binds, rate = allowed[0]
            begins = start if cluster.machines == 1 else CLUSTER_START
            seconds = begins + count / rate
            if begins > seconds / 2:
                binds = f"the start, then {binds}"
            price = seconds / 3600 * cluster.dollars * cluster.machines + (
                count * REQUEST if cluster.machines > 1 else 0
            )
            cost = "" if not cluster.dollars else f"${price:,.0f}" if price >= 1 else "under $1"
            following = f"{allowed[1][0]}, at {allowed[1][1] / rate:.1f} times"
            print(f"| 10^{power} | {cluster.name} | {duration(seconds)} | {binds} | {following} | {cost} |")
    print("\n| pictures | pictures' bytes | features | files of 1 GiB | md5 by dvc, one core | list of pictures |")
    print("|---|---|---|---|---|---|")
    for power in range(5, 10):
        count = 10**power
        print(
            f"| 10^{power} | {volume(count * picture)} | {volume(count * row)} | {-(-count * row // SHARD):,.0f} | "
            f"{duration(count * row / md5)} | {volume(count * per_image)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "large").mkdir()
        paths = draw(folder / "large", 96)
        picture = statistics.mean(path.stat().st_size for path in paths)
        encoder = build(**NETWORK, precision="auto", seed=1, device=cpu)
        row = encoder.regions * encoder.channels * 2
        rates = measure(encoder, paths, folder / "plan", cores, given.repeats)
        md5 = max(hashed() for _ in range(given.repeats))
        print(
            f"{encoder.engine}; {cores} cores, {os.getloadavg()[0]:.1f} processes running or waiting in the last minute"
        )
        print(
            f"{encoder.spec.name}, {encoder.regions} regions of {encoder.channels}, {encoder.spec.precision}; ", end=""
        )
        print(f"pictures of {picture / 1000:.0f} kB, rows of {row / 1000:.0f} kB; best of {given.repeats}\n")
        print("| pictures/s | |\n|---|---|")
        print(f"| decode, one core | {rates.decode:,.0f} |\n| forward, one core | {rates.forward:,.1f} |")
        print(
            f"| store to features.h5 with hashes, one core | {rates.write:,.0f} |\n"
            f"| the same by the clock | {rates.wall * row / 1e6:,.0f} MB/s |"
        )
        print(
            f"| hand-over from a process to another | {rates.hand_over:,.0f} |\n| md5 | {md5 / 1e6:,.0f} MB/s |\n",
            flush=True,
        )

        drawn = folder / "small"
        began = time.perf_counter()
        step = 5000
        starts = range(0, given.pictures, step)
        with ProcessPoolExecutor(cores) as pool:
            ends = [min(start + step, given.pictures) for start in starts]
            list(pool.map(draw_small, [drawn] * len(ends), starts, ends))
        print(f"{given.pictures:,} small pictures drawn in {time.perf_counter() - began:.0f} s", flush=True)
        small = build(**SMALL, precision="float32", seed=1, device=cpu)
        sample = sorted(drawn.rglob("*.jpg"))[:2000]
        known = measure(small, sample, folder / "check", cores, given.repeats)
        sizes = [
            run(folder / str(count), drawn, count) for share in (100, 10, 4, 1) if (count := given.pictures // share)
        ]

    largest, least = sizes[-1], sizes[0]
    start = least.busy - least.pictures / known.of_a_core
    predicted = start + largest.pictures / known.of_a_core
    print(
        f"\n{small.spec.name} at 64 pixels, one core: decode {known.decode:,.0f}, forward {known.forward:,.0f}, ",
        end="",
    )
    print(f"write {known.write:,.0f} pictures/s; start {start:.1f} s from the smallest size")
    print(f"predicted {predicted:.0f} s of processor time, used {largest.busy:.0f} s: ", end="")
    print(f"{largest.busy / predicted:.2f} of it; by the clock {largest.extract:.0f} s on {cores} shared cores\n")
    print("| pictures | prepare | extract | its processor time | own memory | with mapped files |\n" + 6 * "|---" + "|")
    for one in sizes:
        print(f"| {one.pictures:,} | {one.prepare:.1f} s | {one.extract:.1f} s | {one.busy:.1f} s | ", end="")
        print(f"{one.peak.own / 1e6:,.0f} MB | {one.peak.whole / 1e6:,.0f} MB |")
    per_image = max(0, largest.peak.own - least.peak.own) / (largest.pictures - least.pictures)
    print(f"\n{per_image:,.0f} bytes of own memory for each further picture")
    predict(rates, picture, row, per_image, md5, start)
    if given.plot:
        plot(sizes, given.plot)


if __name__ == "__main__":
    main()
