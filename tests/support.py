"""What tests share: small params, a drawn dataset, a project in a folder, and running the command line."""

import contextlib
import csv
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.decoders.registry import DECODERS
from pipeline.params import Params
from pipeline.params_file import check_params

if TYPE_CHECKING:
    from pipeline.encoders.encoder import Encoder

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")

COLORS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


def small_params(**changes: dict[str, object]) -> Params:
    """Params of a network that trains in a second; `changes` are values by section."""
    content: dict[str, dict[str, object]] = {
        "encoder": {"name": "alexnet", "grid": 3, "image_size": 64},
        "vocab": {"min_count": 1},
        "decoder": {
            "kind": "attention",
            "embed": 24,
            "hidden": 32,
            "feature_dropout": 0.0,
            "embedding_dropout": 0.0,
            "output_dropout": 0.0,
        },
        "train": {
            "epochs": 3,
            "batch_size": 16,
            "lr": 5e-3,
            "schedule": "constant",
            "warmup": 0.0,
            "label_smoothing": 0.0,
            "precision": "float32",
            "store_captions": True,
        },
        # Re-ranking is on, so that `predict` uses the stored captions.
        "score": {"beam_size": 10, "length_penalty": 1.0, "rerank": {"neighbors": 60}},
        "run": {"device": "cpu", "workers": 2},
    }
    for section, values in changes.items():
        content.setdefault(section, {}).update(values)
    if "attention" in DECODERS[str(content["decoder"]["kind"])].options.model_fields:
        content["decoder"].setdefault("attention", 16)
    return check_params(content)


def small_encoder(name: str = "alexnet", layer: str = "auto", grid: int = 2, **params: Any) -> "Encoder":
    """An encoder on the CPU, by default AlexNet with random weights at 64 pixels, 2 x 2 regions."""
    import torch

    from pipeline.encoders.encoder import build_encoder

    defaults = {"weights": "none", "image_size": 64, "fit": "stretch", "precision": "float32", "seed": 1}
    return build_encoder(name=name, layer=layer, grid=grid, device=torch.device("cpu"), **defaults | params)


def write_dataset(folder: Path, *, images: int = 18) -> None:
    """One-color images with noise and two captions each; every third is val, then test."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for number in range(images):
            color = list(COLORS)[number % 3]
            pixels = np.random.default_rng(number).integers(-25, 25, (40, 50, 3)) + np.array(COLORS[color])
            name = f"{number:03d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            split = ("train", "train", "train", "val", "test", "train")[number // 3 % 6]
            writer.writerow([name, f"a picture that is all {color}", split])
            writer.writerow([name, f"{color}, and nothing else", split])


def write_project(folder: Path, **changes: dict[str, object]) -> None:
    """A small dataset in `data/tiny` and a params.yaml for it; `changes` are values by section."""
    from ruamel.yaml import YAML

    write_dataset(folder / "data" / "tiny")
    data = {"captions": "data/tiny/captions.csv", "images": "data/tiny/images"}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(small_params(data=data, **changes).model_dump(), file)


def set_param(project: Path, key: str, value: object) -> None:
    """Change one value in the project's params.yaml."""
    from ruamel.yaml import YAML

    path = project / "params.yaml"
    content = YAML().load(path)
    section, _, name = key.rpartition(".")
    (content[section] if section else content)[name] = value
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def run_command(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run `captioner ...`: exit code, standard output, standard error. In this process, since torch loads slowly."""
    from pipeline.cli import main

    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["captioner", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8"))
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()


def run_stages(project: Path, *stages: str) -> dict[str, str]:
    """Run stages, which must succeed; return the standard error of each."""
    messages = {}
    for stage in stages:
        code, out, messages[stage] = run_command(stage, cwd=project)
        assert (code, out) == (0, ""), messages[stage]
    return messages


def run_program(*command: str, cwd: Path) -> str:
    """Run a program such as git or dvc, which must succeed; return its standard output and error."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
