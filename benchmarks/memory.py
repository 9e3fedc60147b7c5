"""Memory of `train` and `score` with features of COCO's size, larger than the memory of many machines.

    python benchmarks/memory.py [--images 113000] [--captioned 11300 113000] [--decoders attention inject] [--folder .]

Writes random features of 49 regions of 2,048 channels (201 kB per image) into a temporary folder inside `--folder`,
which needs room for them. For each number N in `--captioned`, writes one caption for each of N random images, runs the
stages with one epoch, and prints a row per stage of the table of docs/benchmarks.md.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.numpy import save
from scale import LARGE, as_volume, run_command

from pipeline import paths
from pipeline.datasets.tables import CAPTION_COLUMNS
from pipeline.encoders.encoder import build_encoder
from pipeline.features.feature_file import write_feature_file
from pipeline.files import write_bytes, write_csv

VAL, TEST, WORDS = 200, 500, 50
"""Numbers of val and test images, and of words that captions are drawn from."""
ONE = 0x3C00
"""The bits of 1 in float16. Smaller numbers are the bits of values in [0, 1)."""


def write_features(folder: Path, images: list[str]) -> None:
    """Write random features in [0, 1) for each image, and an encoder file without weights."""
    encoder = build_encoder(**LARGE, precision="auto", seed=1, device=torch.device("cpu"))
    shape = (encoder.regions, encoder.channels)

    def read(some: Sequence[str]) -> np.ndarray:
        bits = [np.random.default_rng(int(image)).integers(0, ONE, shape, np.uint16) for image in some]
        return np.stack(bits).view(np.float16)

    began = time.perf_counter()
    write_feature_file(folder / paths.FEATURES, encoder.spec, images, shape, read)
    write_bytes(folder / paths.ENCODER, save({}))
    size = (folder / paths.FEATURES).stat().st_size
    print(f"{len(images):,} images of {shape}: {as_volume(size)}, written in {time.perf_counter() - began:.0f} s")


def write_captions(folder: Path, images: list[str]) -> None:
    """Write one caption of three or four words for each image."""
    random = np.random.default_rng(0)
    splits = ["val"] * VAL + ["test"] * TEST + ["train"] * (len(images) - VAL - TEST)
    captions = [" ".join(f"word{n}" for n in random.integers(0, WORDS, random.integers(3, 5))) for _ in images]
    write_csv(folder / paths.CAPTIONS, CAPTION_COLUMNS, zip(images, captions, splits, strict=True))


def write_params(folder: Path, decoder: str) -> None:
    attention = {"attention": 32} if decoder in ("attention", "updown") else {}
    params = {
        "vocab": {"min_count": 1},
        "decoder": {"kind": decoder, "embed": 64, "hidden": 64, **attention},
        "train": {"epochs": 1, "batch_size": 256},
        "run": {"device": "cpu", "threads": 1},
    }
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=113_000)
    parser.add_argument("--captioned", type=int, nargs="+", default=[11_300, 113_000])
    parser.add_argument("--decoders", nargs="+", default=["attention", "inject"])
    parser.add_argument("--folder", type=Path, help="default: the system's folder for temporary files")
    options = parser.parse_args()
    if min(options.captioned) <= VAL + TEST or max(options.captioned) > options.images:
        parser.error(f"--captioned: from {VAL + TEST + 1:,} to {options.images:,}, the number of images")
    images = [f"{number:09d}" for number in range(options.images)]
    shuffled = [images[index] for index in np.random.default_rng(0).permutation(len(images))]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        write_features(folder, images)
        print("\n| decoder | captioned images | stage | time | memory | with mapped files |\n" + 6 * "|---" + "|")
        for decoder in options.decoders:
            write_params(folder, decoder)
            for count in options.captioned:
                write_captions(folder, shuffled[:count])
                run_command("vocab", folder)
                for stage in ("train", "score"):
                    used = run_command(stage, folder)
                    print(f"| {decoder} | {count:,} | {stage} | {used.seconds:.0f} s ", end="")
                    print(f"| {used.anonymous / 1e6:,.0f} MB | {used.resident / 1e6:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
