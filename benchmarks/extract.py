"""Encoding pictures: ours beside other ways of doing the same work, on the same pictures, in one run.

    python benchmarks/extract.py [--name resnet50] [--layer layer4] [--grid 7] [--pictures 192] [--precision auto]
    python benchmarks/extract.py --device cuda --pictures 50000 --drawn 2000 --peers 2000 --repeats 1

Draws JPEGs of 500 x 375 pixels and about 115 kB, as photographs on the web have, and prints the table of
docs/benchmarks.md. Times vary with the machine and with what else it does: read the ratios. `--drawn` draws fewer
pictures than are encoded, and tells the copies apart by a comment in the file; `--peers` gives the others fewer.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.device import choose_device, single_threaded
from pipeline.encoders import images
from pipeline.encoders.encoder import Encoder, build
from pipeline.features.extraction import extract_features
from pipeline.features.feature_file import FeatureFile
from pipeline.features.image_batches import Picture
from pipeline.files import sha256_of


def draw(folder: Path, count: int, different: int) -> list[Path]:
    """Smooth shapes under noise, which JPEG turns into about as many bytes as a photograph; no two files are the same,
    though only so many pictures are `different`."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> bytes:
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + random.normal(0, 17, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return file.getvalue()

    with ThreadPoolExecutor() as pool:
        drawn = list(pool.map(one, range(min(count, different))))
    paths = []
    for number in range(count):
        content, comment = drawn[number % len(drawn)], f"{number:012d}".encode()
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(content[:2] + segment + content[2:])
        paths.append(path)
    return paths


class Clock:
    """Wall-clock and processor time of a block, per picture."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures

    def __enter__(self) -> "Clock":
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *failure: object) -> None:
        self.rate = self._pictures / (time.perf_counter() - self._wall)
        self.per_cpu_second = self._pictures / (time.process_time() - self._cpu)


def ours(paths: list[Path], encoder: Encoder, folder: Path) -> Clock:
    pictures = [Picture(path.name, path, sha256_of(path)) for path in paths]
    with Clock(len(paths)) as clock:
        extract_features(pictures, encoder, folder / "features.h5", store=folder / "store", batch_size=8, workers=0)
    return clock


def from_the_store(paths: list[Path], encoder: Encoder, folder: Path) -> Clock:
    """With everything encoded before; hashing the pictures is part of the time, on all cores as `prepare` does it."""
    from concurrent.futures import ThreadPoolExecutor

    (folder / "features.h5").unlink()  # as dvc does before it runs a stage
    with Clock(len(paths)) as clock:
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(sha256_of, paths))
        pictures = [Picture(path.name, path, digest) for path, digest in zip(paths, digests, strict=True)]
        extract_features(pictures, encoder, folder / "features.h5", store=folder / "store", batch_size=8, workers=0)
    return clock


def transform(encoder: Encoder) -> Callable[[Image.Image], torch.Tensor]:
    """What a notebook writes: torchvision's own steps."""
    from torchvision import transforms

    size = encoder.spec.transform.size
    return transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(encoder.spec.transform.mean, encoder.spec.transform.std),
        ]
    )


@torch.inference_mode()
def one_at_a_time(paths: list[Path], encoder: Encoder, folder: Path) -> Clock:
    """Picture by picture through the plain network; a compressed file of 14 x 14 regions each and one of their mean,
    as the preparation scripts of caption repositories write them."""
    prepare = transform(encoder)
    (folder / "npz").mkdir()
    with Clock(len(paths)) as clock:
        for path in paths:
            picture = prepare(Image.open(path).convert("RGB")).unsqueeze(0).to(encoder.device)
            output = encoder.network(picture)["layer"]
            grid = torch.nn.functional.adaptive_avg_pool2d(output, 14)[0].permute(1, 2, 0)
            np.savez_compressed(folder / "npz" / path.name, feat=grid.cpu().numpy())
            np.save(folder / "npz" / f"{path.name}.npy", output.mean((0, 2, 3)).cpu().numpy())
    return clock


@torch.inference_mode()
def loader_in_turn(paths: list[Path], encoder: Encoder, batch: int = 16, workers: int = 0) -> Clock:
    """A DataLoader and the network in float32, as feature extractors do: by turns, all cores computing, or with worker
    processes that read and scale the pictures."""

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, place: int) -> torch.Tensor:
            return prepare(Image.open(paths[place]).convert("RGB"))

    prepare = transform(encoder)
    with Clock(len(paths)) as clock:
        loader = torch.utils.data.DataLoader(Pictures(), batch, num_workers=workers, pin_memory=bool(workers))
        kept = [encoder.network(some.to(encoder.device))["layer"].half().cpu() for some in loader]
        torch.cat(kept).numpy()
    return clock


def on_all_cores(work: Callable[[], None], count: int, cores: int) -> Clock:
    """`work` does `count` pictures; every core does as many at once, since they share caches and memory."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(cores) as pool, single_threaded():
        work()
        with Clock(count * cores) as clock:
            for done in [pool.submit(work) for _ in range(cores)]:
                done.result()
    return clock


def decode_alone(paths: list[Path], encoder: Encoder, cores: int) -> Clock:
    def decode() -> None:
        for path in paths:
            encoder.prepare(images.decode(path.read_bytes()))

    return on_all_cores(decode, len(paths), cores)


def forward_alone(encoder: Encoder, count: int, cores: int) -> Clock:
    """The network and nothing else, on ready pixels."""
    size = encoder.spec.transform.size
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return on_all_cores(lambda: void(encoder.encode(pixels)), count, cores)


def void(_: object) -> None:
    """A result that nobody needs."""


def on_the_device(encoder: Encoder, paths: list[Path]) -> dict[str, Clock]:
    """What an accelerator does of it alone: the network, and that with copying and scaling."""
    from pipeline.encoders.encoder import ACCELERATOR_BATCH
    from pipeline.features.gpu_extraction import PIECE, GpuExtractor

    def finish() -> None:
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()

    found = {}
    batches = -(-len(paths) // ACCELERATOR_BATCH)
    size = encoder.spec.transform.size
    pixels = torch.zeros(ACCELERATOR_BATCH, size, size, 3, dtype=torch.uint8, device=encoder.device)
    encoder.forward(pixels)
    finish()
    with Clock(batches * ACCELERATOR_BATCH) as found["the network alone, on the device"]:
        for _ in range(batches):
            encoder.forward(pixels)
        finish()
    conveyor = GpuExtractor(encoder)
    some = [Picture(path.name, path, sha256_of(path)) for path in paths[:ACCELERATOR_BATCH]]
    opened = [conveyor.open((start, some[start : start + PIECE])) for start in range(0, len(some), PIECE)]
    conveyor.land(conveyor.launch(opened))
    with Clock(batches * len(some)) as found["copied, scaled and through the network"]:
        flights = []
        for _ in range(batches):
            flights.append(conveyor.launch(opened))
            if len(flights) > 2:
                conveyor.land(flights.pop(0))
        for flight in flights:
            conveyor.land(flight)
    return found


def matrix_product(dtype: torch.dtype) -> float:
    """Giga-operations per second of one core."""
    left = torch.randn(2048, 2048).to(dtype)
    with single_threaded():
        left @ left
        began = time.perf_counter()
        for _ in range(4):
            left @ left
    return 4 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9


def random_rows(path: Path, count: int = 2000) -> tuple[float, float]:
    """Microseconds to have one row in random order and a number of it: through our reader, through h5py."""
    import h5py

    cache = FeatureFile.open(path)
    order = np.random.default_rng(0).integers(0, len(cache.images), count).tolist()
    cache.load(cache.images)  # in the page cache for both
    began = time.perf_counter()
    for row in order:
        float(cache.features[row][0, 0])
    ours_took = time.perf_counter() - began
    with h5py.File(path) as file:
        rows = file["features"]
        began = time.perf_counter()
        for row in order:
            float(rows[row][0, 0])
    return ours_took / count * 1e6, (time.perf_counter() - began) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="resnet50")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--drawn", type=int, default=2000)
    parser.add_argument("--peers", type=int, default=2000, help="pictures for the other ways")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    encoder = build(
        name=given.name,
        weights="none",
        layer=given.layer,
        grid=given.grid,
        image_size=224,
        fit="crop",
        precision=given.precision,
        seed=1,
        device=choose_device(given.device),
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pictures").mkdir()
        paths = draw(folder / "pictures", given.pictures, given.drawn)
        few = paths[: given.peers]
        size = statistics.mean(path.stat().st_size for path in paths)
        print(f"{encoder.spec.name} at {encoder.spec.layer}, {given.grid} x {given.grid}, {encoder.spec.precision};")
        print(f"{encoder.engine}; {cores} cores; {len(paths)} JPEGs of {size / 1000:.0f} kB; best of {given.repeats}")
        ways = {
            "ours": lambda work: ours(paths, encoder, work),
            "ours, everything in the store": lambda work: from_the_store(paths, encoder, work),
            "loader and network in turn, float32": lambda work: loader_in_turn(few, encoder),
            "one picture at a time, float32, compressed files": lambda work: one_at_a_time(paths[:24], encoder, work),
            "decode alone": lambda work: decode_alone(paths[:48], encoder, cores),
        }
        if encoder.device.type == "cpu":
            ways["forward alone"] = lambda work: forward_alone(encoder, 32, cores)
        else:
            workers = f"a DataLoader with {cores} workers, float32"
            ways[workers] = lambda work: loader_in_turn(few, encoder, batch=64, workers=cores)
        measured: dict[str, list[Clock]] = {name: [] for name in ways}
        for turn in range(given.repeats):
            work = folder / str(turn)
            work.mkdir()
            for name, way in ways.items():
                measured[name].append(way(work))
        best = {name: max(clocks, key=lambda clock: clock.rate) for name, clocks in measured.items()}
        if encoder.device.type != "cpu":
            best |= on_the_device(encoder, few)
        rows = random_rows(work / "features.h5")
        print("\n| | pictures/s | per CPU-second | ours is |\n|---|---|---|---|")
        rate = best["ours"].rate
        for name, clock in best.items():
            ratio = (
                f"{rate / clock.rate:.2f} x"
                if "alone" not in name and "ours" not in name and "copied" not in name
                else ""
            )
            print(f"| {name} | {clock.rate:,.1f} | {clock.per_cpu_second:,.1f} | {ratio} |")
        if encoder.device.type == "cpu":
            decode, forward = best["decode alone"].rate, best["forward alone"].rate
            roof = 1 / (1 / decode + 1 / forward)
            print(f"| what decode and forward allow on {cores} cores | {roof:,.1f} | | {rate / roof:.2f} of it |")
        stored = best["ours, everything in the store"].rate
        print(f"\nfrom the store: {stored / rate:,.0f} times as fast as encoding, hashing included")
        mapped, through_h5py = rows
        print(f"a random row: {mapped:.2f} us mapped, {through_h5py:.2f} us by h5py: {through_h5py / mapped:.0f} times")
        for dtype in (torch.float32, torch.bfloat16):
            print(
                f"matrix product on one core, {str(dtype).removeprefix('torch.')}: {matrix_product(dtype):,.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
