"""Reading random rows of features.h5 from the disk and from memory, beside np.memmap and h5py.

    python benchmarks/read.py [--images 16000] [--rows 1280] [--folder FOLDER]

Writes random features of 49 x 2,048 values and reads rows in batches of 64. `from the disk` drops the file from the
page cache first (Linux only). All copy each row; this package also compares its crc32. FOLDER, on the disk to measure,
needs 0.2 MB per image. Prints the table of docs/benchmarks.md, in microseconds per row.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from pipeline.encoders.spec import imported_spec
from pipeline.features.feature_file import FeatureFile, Features, write_feature_file

SHAPE = (49, 2048)
BATCH = 64
ONE = 0x3C00
"""The bits of 1 in float16. Smaller numbers are the bits of values in [0, 1)."""


def rows_of_package(path: Path, batches: list[list[int]]) -> None:
    file = FeatureFile.open(path)
    for batch in batches:
        file.read(batch)


def rows_of_memmap(path: Path, batches: list[list[int]]) -> None:
    with h5py.File(path) as file:
        offset, shape = file["features"].id.get_offset(), file["features"].shape
    rows = np.memmap(path, "<f2", "r", offset, shape)
    for batch in batches:
        np.stack([rows[row] for row in batch])


def rows_of_h5py(path: Path, batches: list[list[int]]) -> None:
    with h5py.File(path) as file:
        rows = file["features"]
        for batch in batches:
            np.stack([rows[row] for row in batch])


def microseconds(read: Callable[[Path, list[list[int]]], None], path: Path, batches: list[list[int]]) -> float:
    """The time that `read` takes for the batches of `path`, per row."""
    began = time.perf_counter()
    read(path, batches)
    return (time.perf_counter() - began) / sum(map(len, batches)) * 1e6


def drop_from_memory(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    images = [f"{number:06d}" for number in range(given.images)]
    order = np.random.default_rng(0).permutation(given.images)[: given.rows].tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def features(some: list[str]) -> Features:
        values = [np.random.default_rng(int(image)).integers(0, ONE, SHAPE, np.uint16) for image in some]
        return np.stack(values).view(np.float16)

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "features.h5"
        write_feature_file(path, imported_spec("random", SHAPE[1]), images, SHAPE, features)
        os.sync()  # what is not on the disk yet stays in memory
        print("\n| microseconds per row | from the disk | from memory |\n|---|---|---|")
        for name, read in (("this package", rows_of_package), ("np.memmap", rows_of_memmap), ("h5py", rows_of_h5py)):
            drop_from_memory(path)
            cold = microseconds(read, path, batches)
            print(f"| {name} | {cold:,.0f} | {microseconds(read, path, batches):,.0f} |")


if __name__ == "__main__":
    main()
