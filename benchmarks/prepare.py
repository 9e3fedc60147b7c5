"""A dataset of COCO's size through `prepare` and `vocab`: time and memory, beside parsing the same files whole.

    python benchmarks/prepare.py [--pictures 123000] [--bytes 8000]

Makes up 123,000 pictures (random bytes: prepare does not decode them) and 617,000 captions in COCO's layout, once in
two zip archives and once as loose files, and prints the table of docs/benchmarks.md. Every step is a
process of its own, so that its peak of memory is its own. Needs Linux.
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


def make_up(folder: Path, pictures: int, size: int) -> None:
    """Word frequencies fall as in a language, so that vocab has to count what it would count."""
    chance = random.Random(1)
    letters = "etaoinshrdlu"
    words = sorted({"".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(2 * WORDS)})
    chance.shuffle(words)
    weights = list(accumulate(1 / (place + 3) for place in range(WORDS)))
    (folder / "annotations").mkdir(parents=True)
    block = os.urandom(1 << 20)
    for part, count in (("train2017", pictures * 118 // 123), ("val2017", pictures * 5 // 123)):
        images, said = [], []
        (folder / "loose" / part).mkdir(parents=True)
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for number in range(count):
                name = f"{number:012d}.jpg"
                start = chance.randrange(len(block) - size)
                content = part.encode() + number.to_bytes(8) + block[start : start + size]
                archive.writestr(f"{part}/{name}", content)
                (folder / "loose" / part / name).write_bytes(content)
                url = f"http://images.example.org/{part}/{name}"
                images.append(
                    {"license": 3, "file_name": name, "coco_url": url, "height": 480, "width": 640, "id": number}
                )
                for _ in range(5 + (number % 60 == 0)):
                    text = (
                        " ".join(
                            chance.choices(words[:WORDS], cum_weights=weights, k=chance.randint(8, 13))
                        ).capitalize()
                        + "."
                    )
                    said.append({"image_id": number, "id": len(said), "caption": text})
        content = json.dumps({"info": {}, "images": images, "licenses": [], "annotations": said})
        (folder / f"annotations/captions_{part}.json").write_text(content)


def read_streaming(folder: Path) -> str:
    from pipeline.datasets.entries import Captions
    from pipeline.datasets.formats import read_captions

    return f"{len(Captions.of(read_captions('coco', folder / 'annotations')).rows):,} captions"


def count_streaming(folder: Path) -> str:
    from pipeline.datasets.formats import read_captions

    return f"{sum(1 for _ in read_captions('coco', folder / 'annotations')):,} captions"


def read_whole(folder: Path) -> str:
    found = [json.loads(path.read_text()) for path in sorted((folder / "annotations").glob("*.json"))]
    return f"{sum(len(one['annotations']) for one in found):,} captions"


def prepare(folder: Path, images: str) -> str:
    from pipeline.params import DataParams
    from pipeline.stages.prepare import prepare as run

    params = DataParams(
        format="coco",
        captions=str(folder / "annotations"),
        images=str(folder / images),
        encoding="auto",
        image_column="auto",
        caption_column="auto",
        split_column="auto",
        max_skipped=0.05,
    )
    outs = {name: folder / f"{name}.csv" for name in ("captions_out", "images_out", "skipped_out")}
    found = run(params, seed=1, **outs, memory=folder / "store/pictures.csv")
    return f"{sum(found.pictures.values()):,} pictures, {found.captions:,} captions, {found.hashed:,} hashed"


def vocab(folder: Path) -> str:
    from pipeline.params import VocabParams
    from pipeline.stages.vocab import build_vocabulary

    params = VocabParams(unit="word", min_count=5)
    built = build_vocabulary(params, captions=folder / "captions_out.csv", vocabulary_out=folder / "vocab.json")
    return f"{built.tokens:,} tokens"


STEPS = {
    "the captions one by one": lambda folder: count_streaming(folder),
    "the captions, kept as rows": lambda folder: read_streaming(folder),
    "the files parsed whole with json": lambda folder: read_whole(folder),
    "prepare, archives": lambda folder: prepare(folder, "."),
    "prepare, archives, again": lambda folder: prepare(folder, "."),
    "prepare, loose files": lambda folder: prepare(folder, "loose"),
    "prepare, loose files, again": lambda folder: prepare(folder, "loose"),
    "vocab": vocab,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=123_000)
    parser.add_argument("--bytes", type=int, default=8000, help="of one picture")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        began = time.perf_counter()
        said = STEPS[given.step](given.folder)
        seconds = time.perf_counter() - began
        status = Path("/proc/self/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000
        print(f"| {given.step} | {seconds:.1f} s | {peak:,.0f} MB | {said} |")
        return
    with tempfile.TemporaryDirectory() as folder:
        make_up(Path(folder) / "coco", given.pictures, given.bytes)
        os.sync()
        time.sleep(3)  # what is as new as a moment is not remembered
        size = sum(path.stat().st_size for path in Path(folder).glob("coco/annotations/*"))
        print(f"{given.pictures:,} pictures of {given.bytes:,} bytes, {size / 1e6:,.0f} MB of captions")
        print("| step | time | peak memory | what came out |\n|---|---|---|---|", flush=True)
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", f"{folder}/coco"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
