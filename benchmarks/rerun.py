"""Measures what a rerun costs beside training: `dvc repro` without changes, after a comment, and one experiment.

    python benchmarks/rerun.py [--epochs 3] [--repeats 5]

Runs in a clone that shares the DVC cache, so that the workspace stays as it is; `dvc repro` must have run here, and its
dvc.lock must be committed. The floor is DVC itself: one stage that depends on the same captions and images and writes
one file. A stage that depends on a single file is timed as well. Prints the tables of docs/benchmarks.md.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
DVC = [sys.executable, "-m", "dvc"]


def run(command: list[str], folder: Path) -> tuple[float, float, list[tuple[float, str]]]:
    """Run a command: its wall-clock and processor seconds, and each line of output with the second it appeared."""
    before, began = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CAPTIONER_CACHE": str(ROOT / ".cache" / "features")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = [(time.perf_counter() - began, line.rstrip()) for line in process.stdout]
    if process.wait():
        raise SystemExit("\n".join(line for _, line in lines))
    wall, after = time.perf_counter() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system, lines


def cloned(folder: Path) -> Path:
    """A clone of this repository with its outputs."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    cache = subprocess.run([*DVC, "cache", "dir"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    run([*DVC, "cache", "dir", "--local", cache], folder)
    run([*DVC, "checkout"], folder)
    return folder


def without_images(folder: Path) -> Path:
    """A pipeline of one stage that depends on one file."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    run([*DVC, "init", "-q"], folder)
    (folder / "in").write_text("in")
    run([*DVC, "stage", "add", "-q", "-n", "copy", "-d", "in", "-o", "out", "cp in out"], folder)
    run([*DVC, "repro", "-q"], folder)
    return folder


def one_stage(folder: Path) -> Path:
    """A pipeline of one stage that depends on the captions and images of params.yaml, as a script of one file would."""
    pipeline = cloned(folder) / "dvc.yaml"
    deps = "deps: ['${data.captions}', '${data.images}', data/scenes/draw.py]"
    pipeline.write_text(f"stages:\n  train:\n    cmd: echo > model\n    {deps}\n    outs: [model]\n", encoding="utf-8")
    (folder / "dvc.lock").unlink()
    run([*DVC, "repro", "-q"], folder)
    return folder


def first(lines: list[tuple[float, str]], start: str) -> float:
    return next(second for second, line in lines if line.startswith(start))


def nothing_to_do(ours: Path, floor: Path, single_file: Path, repeats: int) -> None:
    """Time `dvc repro`, alternating between the pipelines, without changes and after a new comment."""
    cases = {
        "DVC with one stage that depends on one file": single_file,
        "DVC with one stage on the same dataset": floor,
        "`dvc repro` here": ours,
        "`dvc repro` after a comment": ours,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    module = ours / "pipeline" / "errors.py"
    for _ in range(repeats):
        for name, folder in cases.items():
            if name.endswith("comment"):
                module.write_text(f"{module.read_text(encoding='utf-8')}# a comment\n", encoding="utf-8")
            taken[name].append(run([*DVC, "repro"], folder)[:2])
    print(
        "| nothing to do | wall clock | processor time | relative to one stage on the same dataset |\n|---|---|---|---|"
    )
    least = statistics.median(processor for _, processor in taken["DVC with one stage on the same dataset"])
    for name, times in taken.items():
        wall, processor = (statistics.median(one) for one in zip(*times, strict=True))
        print(f"| {name} | {wall:.2f} s | {processor:.2f} s | {processor / least:.2f} |")


def another_rate(ours: Path, epochs: int) -> None:
    rate = f"train.lr=0.001{random.randrange(10**6):06d}"  # a new rate: DVC restores results of earlier ones
    wall, _, lines = run([*DVC, "exp", "run", "-S", rate, "-S", f"train.epochs={epochs}"], ours)
    began = [second for second, line in lines if line.startswith("device: ")]
    stages = [second for second, line in lines if line.startswith("> python -m pipeline")]
    trained, scored = first(lines, "train: "), first(lines, "score: ")
    parts = {
        "dvc, until `train` starts": stages[0],
        "`train` starts": began[0] - stages[0],
        f"training, {epochs} epochs": trained - began[0],
        "`train` ends; dvc keeps the model": stages[1] - trained,
        "`score` starts": began[1] - stages[1],
        "captions and scores": scored - began[1],
        "`score` ends; `report`; dvc": wall - scored,
    }
    print("\n| `dvc exp run -S train.lr=1e-3` | seconds |\n|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.2f} |")
    print(f"| all but the training | {wall - (trained - began[0]):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        ours = cloned(Path(place) / "ours")
        floor, single_file = one_stage(Path(place) / "one-stage"), without_images(Path(place) / "one-file")
        nothing_to_do(ours, floor, single_file, given.repeats)
        another_rate(ours, given.epochs)


if __name__ == "__main__":
    main()
