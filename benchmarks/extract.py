"""Extraction speed: this project beside other ways of doing the same work, on the same images, in one run.

    python benchmarks/extract.py [--name resnet50] [--layer layer4] [--grid 7] [--images 192] [--precision auto]
    python benchmarks/extract.py --device cuda --images 50000 --distinct 2000 --other-images 2000 --repeats 1

Draws JPEGs of 500 x 375 pixels and about 115 kB, like photographs on the web, and prints the table of
docs/benchmarks.md. Times vary with the machine and its load: compare the ratios. With `--distinct`, fewer images are
drawn than encoded, and copies differ by a comment in the file; `--other-images` is the number for the other ways.
"""

import argparse
import contextlib
import copy
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline.device import choose_device, single_threaded
from pipeline.encoders.encoder import GPU_BATCH, Encoder, build_encoder
from pipeline.encoders.images import decode_image, preprocess_image
from pipeline.encoders.jpeg_headers import jpeg_size
from pipeline.encoders.nvimgcodec import check_nvimgcodec
from pipeline.errors import ParamsError
from pipeline.features.decode_pool import DecodePool
from pipeline.features.extraction import extract_features
from pipeline.features.gpu_decoding import Jpeg, JpegDecoder
from pipeline.features.gpu_extraction import (
    CHUNK,
    GPU_DECODED,
    MAX_PENDING,
    DecodedBatch,
    GpuExtractor,
    encode_on_gpu,
    registered,
)
from pipeline.features.image_batches import ImageFile
from pipeline.files import sha256_of

WARM = "ours without the store, workers warm"
"""On a GPU, what is compared with the others."""
ON_GPU = "ours without the store, JPEGs decoded on the GPU"


def draw(folder: Path, count: int, distinct: int) -> list[Path]:
    """Write `count` JPEGs: smooth shapes under noise. No two files are equal, but only `distinct` images are."""

    def encode(number: int) -> bytes:
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + random.normal(0, 17, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return file.getvalue()

    with ThreadPoolExecutor() as pool:
        contents = list(pool.map(encode, range(min(count, distinct))))
    paths = []
    for number in range(count):
        content, comment = contents[number % len(contents)], f"{number:012d}".encode()
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(content[:2] + segment + content[2:])
        paths.append(path)
    return paths


class Clock:
    """Measures a block: images per second and per CPU-second of this process, and the memory that it takes in GiB."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._ended = threading.Event()

    def start(self) -> "Clock":
        self._before = self._peak = memory_in_use()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def stop(self) -> None:
        self.rate = self._images / (time.perf_counter() - self._wall)
        self.per_cpu_second = self._images / (time.process_time() - self._cpu)
        self._ended.set()
        self._sampler.join()
        self.memory = self._peak - self._before

    def _sample(self) -> None:
        while not self._ended.wait(0.25):
            self._peak = max(self._peak, memory_in_use())

    def __enter__(self) -> "Clock":
        return self.start()

    def __exit__(self, *failure: object) -> None:
        self.stop()


def memory_in_use() -> float:
    """GiB of this process and its children, without pages of files; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    children: list[str] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # threads end
            children += task.read_text().split()
    total = 0
    for file in [status, *(Path(f"/proc/{child}/status") for child in children)]:
        kinds = ("RssAnon:", "RssShmem:")[: 1 + (file is status)]  # shared memory is the same for all
        with contextlib.suppress(OSError):
            total += sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(kinds))
    return total / 2**20


def ours(paths: list[Path], encoder: Encoder, folder: Path) -> Clock:
    """Everything, from the first file to features.h5, the start of processes included."""
    images = [ImageFile(path.name, path, sha256_of(path)) for path in paths]
    with Clock(len(paths)) as clock:
        extract_features(images, encoder, folder / "features.h5", store=folder / "store", workers=0)
    return clock


def encode_only(paths: list[Path], encoder: Encoder, workers: int) -> Clock:
    """Decoding and encoding without the store, once all workers are warm: what the other implementations do."""
    images = [ImageFile(path.name, path, sha256_of(path)) for path in paths]
    warm = min(len(images) // 4, 2 * GPU_BATCH * workers)
    done, whole = 0, Clock(len(images)).start()
    clock = whole
    with single_threaded():
        for batch in encode_on_gpu(images, encoder, workers):
            before, done = done, done + len(batch.keys)
            if before < warm <= done < len(images):
                clock = Clock(len(images) - done).start()
    for one in {clock, whole}:
        one.stop()
    clock.memory = whole.memory
    return clock


def from_the_store(paths: list[Path], encoder: Encoder, folder: Path) -> Clock:
    """Everything was encoded before. Includes hashing the images, on all cores as `prepare` does."""
    (folder / "features.h5").unlink()  # as dvc does before it runs a stage
    with Clock(len(paths)) as clock:
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(sha256_of, paths))
        images = [ImageFile(path.name, path, digest) for path, digest in zip(paths, digests, strict=True)]
        extract_features(images, encoder, folder / "features.h5", store=folder / "store", workers=0)
    return clock


def plain_transform(encoder: Encoder) -> Callable[[Image.Image], torch.Tensor]:
    """torchvision's preprocessing, as a notebook writes it."""
    from torchvision import transforms

    preprocessing = encoder.spec.preprocessing
    return transforms.Compose(
        [
            transforms.Resize(round(preprocessing.size * 256 / 224)),
            transforms.CenterCrop(preprocessing.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


@torch.inference_mode()
def one_at_a_time(paths: list[Path], encoder: Encoder, network: nn.Module, folder: Path) -> Clock:
    """Image by image through the plain network; for each a compressed file of 14 x 14 regions and one of their mean,
    as the preparation scripts of captioning repositories write them."""
    transform = plain_transform(encoder)
    (folder / "npz").mkdir()
    with Clock(len(paths)) as clock:
        for path in paths:
            image = transform(Image.open(path).convert("RGB")).unsqueeze(0).to(encoder.device)
            output = network(image)
            grid = torch.nn.functional.adaptive_avg_pool2d(output, 14)[0].permute(1, 2, 0)
            np.savez_compressed(folder / "npz" / path.name, feat=grid.cpu().numpy())
            np.save(folder / "npz" / f"{path.name}.npy", output.mean((0, 2, 3)).cpu().numpy())
    return clock


@torch.inference_mode()
def data_loader(paths: list[Path], encoder: Encoder, network: nn.Module, batch: int = 16, workers: int = 0) -> Clock:
    """A DataLoader and the plain network in float32: in turn on all cores, or with worker processes that decode."""
    transform = plain_transform(encoder)

    class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> torch.Tensor:
            return transform(Image.open(paths[number]).convert("RGB"))

    loader = torch.utils.data.DataLoader(
        Images(), batch, num_workers=workers, pin_memory=bool(workers), persistent_workers=bool(workers)
    )
    if workers:
        list(islice(loader, 2 * workers))  # starts the workers
    with Clock(len(paths)) as clock:
        torch.cat([network(images.to(encoder.device)).half().cpu() for images in loader]).numpy()
    return clock


def on_all_cores(work: Callable[[], object], count: int, cores: int) -> Clock:
    """`work` processes `count` images; every core runs it at once, since cores share caches and memory."""
    with ThreadPoolExecutor(cores) as pool, single_threaded():
        work()
        with Clock(count * cores) as clock:
            for done in [pool.submit(work) for _ in range(cores)]:
                done.result()
    return clock


def decode_alone(paths: list[Path], encoder: Encoder, cores: int) -> Clock:
    def decode() -> None:
        for path in paths:
            preprocess_image(decode_image(path.read_bytes()), encoder.spec.preprocessing)

    return on_all_cores(decode, len(paths), cores)


def forward_alone(encoder: Encoder, count: int, cores: int) -> Clock:
    """The network alone, on preprocessed images."""
    size = encoder.spec.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return on_all_cores(lambda: encoder.encode(pixels), count, cores)


def on_the_device(encoder: Encoder, paths: list[Path]) -> dict[str, Clock]:
    """The GPU's share of the work: the network alone, and with copying and resizing."""

    def synchronize() -> None:
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()

    clocks = {}
    batches = -(-len(paths) // GPU_BATCH)
    size = encoder.spec.preprocessing.size
    pixels = torch.zeros(GPU_BATCH, size, size, 3, dtype=torch.uint8, device=encoder.device)
    encoder.forward(pixels)
    synchronize()
    with Clock(batches * GPU_BATCH) as clocks["the network alone, on the device"]:
        for _ in range(batches):
            encoder.forward(pixels)
        synchronize()
    extractor = GpuExtractor(encoder)
    decoded = np.zeros((GPU_BATCH, size, size, 3), np.uint8)
    batch = DecodedBatch([ImageFile("", Path(), "")] * GPU_BATCH, [None] * GPU_BATCH, torch.from_numpy(decoded))
    extractor.collect(extractor.submit(batch))
    clock = clocks["copied and through the network"] = Clock(batches * GPU_BATCH)
    with registered(decoded, encoder.device), single_threaded(), clock:
        pending = []
        for _ in range(batches):
            pending.append(extractor.submit(batch))
            if len(pending) >= MAX_PENDING:
                extractor.collect(pending.pop(0))
        for one in pending:
            extractor.collect(one)
    return clocks


def decode_in_processes(paths: list[Path], encoder: Encoder, workers: int) -> Clock:
    """Decoding and resizing alone, in as many processes as extraction on a GPU has."""
    images = [ImageFile(path.name, path, sha256_of(path)) for path in paths]
    with (
        DecodePool(encoder.spec.preprocessing, CHUNK * workers, workers) as pool,
        ThreadPoolExecutor(workers) as threads,
    ):
        starts = range(0, len(images), CHUNK)

        def decode(start: int) -> None:
            some = images[start : start + CHUNK]
            pool.decode(some, [(start + place) % len(pool.slots) for place in range(len(some))])

        list(threads.map(decode, starts[: 4 * workers]))  # warm
        with Clock(len(images)) as clock:
            list(threads.map(decode, starts))
    return clock


def has_nvimgcodec(device: torch.device) -> bool:
    """Whether JPEGs can be decoded on the device; prints why not."""
    try:
        check_nvimgcodec(device)
    except ParamsError as error:
        print(f"JPEGs are not decoded on the device: {error}")
        return False
    return True


def in_memory(content: bytes) -> Jpeg:
    """A JPEG as the GPU decodes it."""
    size = jpeg_size(content)
    assert size
    return Jpeg(np.frombuffer(content, np.uint8), *size)


def decode_on_the_device(paths: list[Path], encoder: Encoder) -> Clock:
    """nvImageCodec and resizing alone, in batches, on the bytes of JPEGs."""
    decoder = JpegDecoder(encoder.spec.preprocessing, encoder.device)
    jpegs = [in_memory(path.read_bytes()) for path in paths]
    batches = [jpegs[start : start + GPU_DECODED] for start in range(0, len(jpegs), GPU_DECODED)]
    decoder.decode(batches[0])
    torch.cuda.synchronize()
    with Clock(len(jpegs)) as clock:
        for batch in batches:
            decoder.decode(batch)
        torch.cuda.synchronize()
    return clock


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="resnet50")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--distinct", type=int, default=2000)
    parser.add_argument("--other-images", type=int, default=2000, help="images for the other ways")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def measure(given: argparse.Namespace, encoder: Encoder, cores: int, folder: Path) -> dict[str, Clock]:
    """Run every way `repeats` times; return the best run of each."""
    (folder / "images").mkdir()
    paths = draw(folder / "images", given.images, given.distinct)
    others = paths[: given.other_images]
    network = copy.deepcopy(encoder.network).to(encoder.device).eval()  # encoder.network stays on the CPU
    size = statistics.mean(path.stat().st_size for path in paths)
    print(f"{encoder.spec.name} at {encoder.spec.layer}, {given.grid} x {given.grid}, {encoder.spec.precision};")
    print(f"{encoder.engine}; {cores} cores; {len(paths)} JPEGs of {size / 1000:.0f} kB; best of {given.repeats}")
    ways: dict[str, Callable[[Path], Clock]] = {
        "ours": lambda work: ours(paths, encoder, work),
        "ours, everything in the store": lambda work: from_the_store(paths, encoder, work),
        "DataLoader and network in turn, float32": lambda work: data_loader(others, encoder, network),
        "one image at a time, float32, compressed files": lambda work: one_at_a_time(
            paths[:24], encoder, network, work
        ),
        "decode alone": lambda work: decode_alone(paths[:48], encoder, cores),
    }
    if encoder.device.type == "cpu":
        ways["forward alone"] = lambda work: forward_alone(encoder, 32, cores)
    else:
        name = f"DataLoader with {cores} workers, float32"
        ways[name] = lambda work: data_loader(paths, encoder, network, batch=64, workers=cores)
        ways[WARM] = lambda work: encode_only(paths, encoder, cores)
        ways[f"decode alone, {cores} processes"] = lambda work: decode_in_processes(paths, encoder, cores)
        if has_nvimgcodec(encoder.device):
            preprocessing = replace(encoder.spec.preprocessing, jpeg_decoder="nvimgcodec")
            on_gpu = Encoder(replace(encoder.spec, preprocessing=preprocessing), encoder.network, encoder.device)
            ways[ON_GPU] = lambda work: encode_only(paths, on_gpu, cores)
    measured: dict[str, list[Clock]] = {name: [] for name in ways}
    for turn in range(given.repeats):
        work = folder / str(turn)
        work.mkdir()
        for name, way in ways.items():
            measured[name].append(way(work))
    best = {name: max(clocks, key=lambda clock: clock.rate) for name, clocks in measured.items()}
    if encoder.device.type != "cpu":
        best |= on_the_device(encoder, others)
    if ON_GPU in ways:
        best["decode and resize alone, on the device"] = decode_on_the_device(others, encoder)
    return best


def print_table(best: dict[str, Clock], cores: int) -> None:
    print("\n| | images/s | per CPU-second | GiB | ours is |\n|---|---|---|---|---|")
    rate = best.get(WARM, best["ours"]).rate
    for name, clock in best.items():
        compared = not any(word in name for word in ("alone", "ours", "copied"))
        ratio = f"{rate / clock.rate:.2f} x" if compared else ""
        if ratio and ON_GPU in best:
            ratio += f", with the GPU's decoder {best[ON_GPU].rate / clock.rate:.2f} x"
        print(f"| {name} | {clock.rate:,.1f} | {clock.per_cpu_second:,.1f} | {clock.memory:.1f} | {ratio} |")
    if "forward alone" in best:
        limit = 1 / (1 / best["decode alone"].rate + 1 / best["forward alone"].rate)
        print(f"| limit of decode and forward on {cores} cores | {limit:,.1f} | | | {rate / limit:.2f} of it |")
    stored = best["ours, everything in the store"].rate
    print(f"\nfrom the store: {stored / rate:,.0f} times as fast as encoding, hashing included")


def main() -> None:
    given = parse_arguments()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    encoder = build_encoder(
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
    with tempfile.TemporaryDirectory() as folder:
        best = measure(given, encoder, cores, Path(folder))
        print_table(best, cores)


if __name__ == "__main__":
    main()
