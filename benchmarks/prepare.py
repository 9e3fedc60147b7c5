"""Measures time and memory of the stages `prepare` and `vocab` for a dataset of COCO's size.

    python benchmarks/prepare.py [--images 123000] [--bytes 8000]

Generates 123,000 images (random bytes, since prepare does not decode them) and 617,000 captions in COCO's layout, once
in two zip archives and once as files, and prints the table of docs/benchmarks.md. Each step runs in a process of its
own, which gives its peak memory. Needs Linux.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from itertools import accumulate
from pathlib import Path

WORDS = 27_000


def generate_dataset(folder: Path, count: int, size: int) -> None:
    """Word frequencies follow Zipf's law, as in natural language."""
    rng = random.Random(1)
    letters = "etaoinshrdlu"
    words = sorted({"".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(2 * WORDS)})
    rng.shuffle(words)
    weights = list(accumulate(1 / (place + 3) for place in range(WORDS)))
    (folder / "annotations").mkdir(parents=True)
    block = os.urandom(1 << 20)
    for part, images_in_part in (("train2017", count * 118 // 123), ("val2017", count * 5 // 123)):
        images, annotations = [], []
        (folder / "loose" / part).mkdir(parents=True)
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for number in range(images_in_part):
                name = f"{number:012d}.jpg"
                start = rng.randrange(len(block) - size)
                content = part.encode() + number.to_bytes(8) + block[start : start + size]
                archive.writestr(f"{part}/{name}", content)
                (folder / "loose" / part / name).write_bytes(content)
                url = f"http://images.example.org/{part}/{name}"
                images.append(
                    {"license": 3, "file_name": name, "coco_url": url, "height": 480, "width": 640, "id": number}
                )
                for _ in range(5 + (number % 60 == 0)):
                    text = (
                        " ".join(rng.choices(words[:WORDS], cum_weights=weights, k=rng.randint(8, 13))).capitalize()
                        + "."
                    )
                    annotations.append({"image_id": number, "id": len(annotations), "caption": text})
        content = json.dumps({"info": {}, "images": images, "licenses": [], "annotations": annotations})
        (folder / f"annotations/captions_{part}.json").write_text(content)


def read_captions(folder: Path) -> str:
    from pipeline.datasets.detection import read_dataset
    from pipeline.datasets.entries import DatasetEntries

    entries = DatasetEntries.collect(read_dataset("coco", folder / "annotations"))
    return f"{len(entries.captions):,} captions"


def prepare(folder: Path, images: str) -> str:
    from pipeline.params_file import check_params
    from pipeline.stages.prepare import PrepareFiles
    from pipeline.stages.prepare import prepare as run

    data = {"format": "coco", "captions": str(folder / "annotations"), "images": str(folder / images)}
    files = PrepareFiles(
        folder / "captions.csv", folder / "images.csv", folder / "skipped.csv", folder / "store/image-hashes.json"
    )
    report = run(files, check_params({"data": data}))
    return f"{sum(report.images.values()):,} images, {report.captions:,} captions, {report.hashed:,} hashed"


def vocab(folder: Path) -> str:
    from pipeline.params_file import check_params
    from pipeline.stages.vocab import VocabFiles
    from pipeline.stages.vocab import vocab as run

    files = VocabFiles(folder / "captions.csv", folder / "vocab.json")
    return f"{run(files, check_params({'vocab': {'min_count': 5}})).tokens:,} tokens"


STEPS = {
    "read the captions": read_captions,
    "prepare, archives": lambda folder: prepare(folder, "."),
    "prepare, archives, again": lambda folder: prepare(folder, "."),
    "prepare, files": lambda folder: prepare(folder, "loose"),
    "prepare, files, again": lambda folder: prepare(folder, "loose"),
    "vocab": vocab,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=123_000)
    parser.add_argument("--bytes", type=int, default=8000, help="size of one image")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        began = time.perf_counter()
        result = STEPS[given.step](given.folder)
        seconds = time.perf_counter() - began
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000
        print(f"| {given.step} | {seconds:.1f} s | {peak:,.0f} MB | {result} |")
        return
    with tempfile.TemporaryDirectory() as folder:
        generate_dataset(Path(folder) / "coco", given.images, given.bytes)
        os.sync()
        time.sleep(3)  # images that were modified just now are not cached
        size = sum(path.stat().st_size for path in Path(folder).glob("coco/annotations/*"))
        print(f"{given.images:,} images of {given.bytes:,} bytes, {size / 1e6:,.0f} MB of captions")
        print("| step | time | peak memory | result |\n|---|---|---|---|", flush=True)
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", f"{folder}/coco"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
