"""What the tests share: small pictures that they draw themselves, a small project, and the real data where it is."""

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.params import Params, check_params, read_params

if TYPE_CHECKING:
    from pipeline.encoders.encoder import Encoder

pytest_plugins = ["web_server", "s3_server"]

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights that developers have beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real pictures in ../shared, which are not part of the project")
    return SHARED


def small_params(**changes: dict[str, object]) -> Params:
    """The project's params.yaml with a network that trains in a second; `changes` are values by section."""
    content = read_params(ROOT / "params.yaml").model_dump()
    content["encoder"] |= {"name": "alexnet", "grid": 3, "image_size": 64}
    content["decoder"] |= {
        "embed": 24,
        "hidden": 32,
        "attention": 16,
        "feature_dropout": 0.0,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
    }
    content["train"] |= {"epochs": 3, "batch_size": 16, "lr": 5e-3, "schedule": "constant", "warmup": 0.0}
    content["train"] |= {"label_smoothing": 0.0, "precision": "float32", "store_captions": True}
    content["score"] |= {
        "beam_size": 10,
        "length_penalty": 1.0,
        "neighbours": 60,
    }  # what `predict` does with a model that remembers
    content["vocab"] |= {"min_count": 1}
    content["run"] |= {"device": "cpu", "extract_batch": 4, "workers": 2}
    for section, values in changes.items():
        content[section] |= values
    return check_params(content)


def small_encoder(fit: str = "squash") -> "Encoder":
    """AlexNet with random weights at 64 pixels, 2 x 2 regions, on the CPU."""
    import torch

    from pipeline.encoders.encoder import build

    size = {"grid": 2, "image_size": 64, "fit": fit}
    how = {"precision": "float32", "seed": 1, "device": torch.device("cpu")}
    return build(name="alexnet", weights="none", layer="auto", **size, **how)


def write_dataset(folder: Path, *, pictures: int = 18) -> None:
    """One-colour pictures with noise and two captions each; every third is val, then test."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for number in range(pictures):
            colour = list(COLOURS)[number % 3]
            pixels = np.random.default_rng(number).integers(-25, 25, (40, 50, 3)) + np.array(COLOURS[colour])
            name = f"{number:03d}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            split = ("train", "train", "train", "val", "test", "train")[number // 3 % 6]
            writer.writerow([name, f"a picture that is all {colour}", split])
            writer.writerow([name, f"{colour}, and nothing else", split])


def write_project(folder: Path, **changes: dict[str, object]) -> None:
    """A small dataset in `data/tiny` and a params.yaml for it; `changes` are values by section."""
    from ruamel.yaml import YAML

    write_dataset(folder / "data" / "tiny")
    data = {"captions": "data/tiny/captions.csv", "images": "data/tiny/images"}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(small_params(data=data, **changes).model_dump(), file)


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained model, for tests that do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    write_project(folder, train={"epochs": 12})
    for stage in ("prepare", "extract", "vocab", "train"):
        code, _, said = run_command(stage, cwd=folder)
        assert code == 0, said
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a small dataset in `data/tiny` and a params.yaml for it, as the working directory."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("CAPTIONER_CACHE", raising=False)
    return tmp_path


def set_param(project: Path, key: str, value: object) -> None:
    """Change one value in the project's params.yaml."""
    from ruamel.yaml import YAML

    path = project / "params.yaml"
    content = YAML().load(path)
    section, _, name = key.rpartition(".")
    (content[section] if section else content)[name] = value
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)


def run_command(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> "tuple[int, str, str]":
    """`captioner ...` in a process of its own: exit code, standard output, standard error."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        input=stdin,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
