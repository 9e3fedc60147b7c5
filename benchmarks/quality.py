"""Which training gives the best captions: every params file of benchmarks/quality, five-fold, on the same features.

    python benchmarks/quality.py FLICKR8K ENCODER_WEIGHTS [--jobs 2] [--folds 5] [--only NAME ...] [--table]

FLICKR8K is a folder as the `flickr8k` format reads it, ENCODER_WEIGHTS a MobileNetV2 state dict. Every picture is in
the test part of one fold; its caption comes from the model that did not see it. Scores are over all pictures together,
the differences paired by picture. Each finished (training, fold) is kept in .cache/quality, so that an interrupted run
goes on; `--table` only prints what there is. Hours for all of it: one training takes some minutes on a core.

A file there holds the sections that differ from `base.yaml`; `popular-*` are the trainings that people copy. `extends`
names another file to start from, `mirrored` adds the mirrored training pictures, `members` are the trainings whose
probabilities are averaged.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from ruamel.yaml import YAML
from torch import Tensor, nn

from pipeline.datasets import tables
from pipeline.datasets.formats import Columns, read_captions
from pipeline.decoders.beam_search import SearchOptions
from pipeline.decoders.decoder import Decoder, State
from pipeline.device import single_threaded
from pipeline.features.feature_file import FeatureFile
from pipeline.files import read_json, write_csv, write_json
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.evaluation import Comparison, Evaluation, compare_captions, evaluate
from pipeline.params import Params, check_params, read_params
from pipeline.stages.extract import extract
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train
from pipeline.stages.vocab import build_vocabulary

HERE = Path(__file__).parent
TRAININGS = HERE / "quality"
CACHE = HERE.parent / ".cache" / "quality"
FOLDS, VAL = 5, 80
MIRRORED = "mirrored-"


def training(name: str) -> dict[str, Any]:
    """What a file of benchmarks/quality says, with what it extends."""
    with (TRAININGS / f"{name}.yaml").open(encoding="utf-8") as file:
        said: dict[str, Any] = YAML(typ="safe").load(file) or {}
    if name == "base":
        return said
    below = training(said.pop("extends", "base"))
    for key, value in said.items():
        below[key] = {**below[key], **value} if isinstance(below.get(key), dict) else value
    return below


def params_of(name: str, images: Path, weights: str) -> Params:
    """The whole params of a training, seeds and folds aside."""
    content = read_params(HERE.parent / "params.yaml").model_dump()
    content["data"] |= {"format": "table", "captions": str(images / "captions.csv"), "images": str(images)}
    content["encoder"] |= {"name": "mobilenet_v2", "weights": weights, "layer": "auto", "grid": 7, "fit": "squash"}
    said = training(name)
    for section in ("vocab", "decoder", "train", "score"):
        content[section] |= said[section]
    content["run"] |= {"device": "cpu", "threads": 1}
    return check_params(content)


def make_features(dataset: Path, weights: str) -> None:
    """One features.h5 of all pictures and of their mirrored views."""
    images = CACHE / "images"
    images.mkdir(parents=True, exist_ok=True)
    source = read_captions("flickr8k", dataset, encoding="auto", columns=Columns("auto", "auto", "auto"))
    rows = [(row.image, row.caption) for row in source if hasattr(row, "caption")]
    for name in sorted({image for image, _ in rows}):
        if not (images / name).exists():
            shutil.copy(dataset / "Images" / name, images / name)
        mirrored = images / f"{MIRRORED}{Path(name).stem}.png"
        if not mirrored.exists():
            with Image.open(images / name) as picture:
                ImageOps.mirror(picture).save(mirrored)
    both = [*rows, *((f"{MIRRORED}{Path(name).stem}.png", caption) for name, caption in rows)]
    write_csv(images / "captions.csv", ("image", "caption"), both)
    params = params_of("base", images, weights)
    prepare(
        params.data,
        seed=params.seed,
        captions_out=CACHE / "captions.csv",
        images_out=CACHE / "images.csv",
        skipped_out=CACHE / "skipped.csv",
        memory=CACHE / "digests.csv",
    )
    extract(
        params.encoder,
        params.run,
        seed=params.seed,
        max_skipped=0.0,
        images=CACHE / "images.csv",
        skipped=CACHE / "skipped.csv",
        features_out=CACHE / "features.h5",
        encoder_out=CACHE / "encoder.safetensors",
        skipped_out=CACHE / "skipped-by-extract.csv",
        store=CACHE / "store",
    )


def split_of(fold: int) -> dict[str, str]:
    """The split of each picture in a fold: its fifth is test, `VAL` others are val."""
    names = sorted(name for name in tables.read_captions(CACHE / "captions.csv") if not name.startswith(MIRRORED))
    order = np.random.default_rng(0).permutation(len(names))
    test = set(np.array_split(order, FOLDS)[fold].tolist())
    others = [place for place in np.roll(order, -(fold + 1) * len(names) // FOLDS).tolist() if place not in test]
    val = set(others[:VAL])
    return {name: "test" if i in test else "val" if i in val else "train" for i, name in enumerate(names)}


def key_of(name: str, fold: int) -> str:
    """What a result is kept under: it changes with the training, not with its name."""
    content = json.dumps([training(name), fold], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def result_of(name: str, fold: int) -> dict[str, Any] | None:
    path = CACHE / "results" / f"{key_of(name, fold)}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path)
    return found


def run_fold(name: str, fold: int, weights: str) -> tuple[str, int, float]:
    """Train, or load the members, and caption the fold's test pictures."""
    began = time.monotonic()
    params = params_of(name, CACHE / "images", weights)
    said = training(name)
    folder = CACHE / "models" / key_of(name, fold)
    splits = split_of(fold)
    test = [image for image, split in splits.items() if split == "test"]
    epochs, best = 0, 0.0
    if "members" in said:
        members = [CACHE / "models" / key_of(one, fold) / "model.safetensors" for one in said["members"]]
    else:
        members = [folder / "model.safetensors"]
        epochs, best = _train(params, folder, splits, mirrored=said.get("mirrored", False), seed=said.get("seed", 17))
    bundles = [TrainedModel.load(path) for path in members]
    model = bundles[0]
    if len(bundles) > 1:
        model = replace(model, decoder=Ensemble([one.decoder for one in bundles]))  # type: ignore[arg-type]
    cache = FeatureFile.open(CACHE / "features.h5")
    search = SearchOptions(**params.score.model_dump(exclude={"split", "meteor"}))
    with single_threaded():
        found = model.search(torch.from_numpy(cache.load(test)).float(), search)
    captions = {image: model.vocabulary.decode(several[0].tokens) for image, several in zip(test, found, strict=True)}
    took = time.monotonic() - began
    result = {"name": name, "fold": fold, "captions": captions, "epochs": epochs, "best": best, "seconds": took}
    write_json(CACHE / "results" / f"{key_of(name, fold)}.json", result)
    return name, fold, took


def _train(params: Params, folder: Path, splits: dict[str, str], *, mirrored: bool, seed: int) -> tuple[int, float]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, texts in tables.read_captions(CACHE / "captions.csv").items():
        view = image.startswith(MIRRORED)
        name = f"{Path(image).stem.removeprefix(MIRRORED)}.jpg" if view else image
        if not view or (mirrored and splits[name] == "train"):
            rows += [(image, text, splits[name]) for text in texts]
    write_csv(folder / "captions.csv", tables.CAPTION_COLUMNS, rows)
    build_vocabulary(params.vocab, captions=folder / "captions.csv", vocabulary_out=folder / "vocab.json")
    report = train(
        params.train,
        params.decoder,
        params.run,
        seed=seed,
        captions=folder / "captions.csv",
        features=CACHE / "features.h5",
        vocabulary=folder / "vocab.json",
        encoder=CACHE / "encoder.safetensors",
        model_out=folder / "model.safetensors",
        curve_out=folder / "training.csv",
        checkpoints=folder / "checkpoints",
    )
    return report.trained.epochs, report.trained.best.val_cider_d


class Ensemble(nn.Module):
    """Several decoders as one for the search: the mean of their probabilities of the next word. What pictures are alike
    the first one says."""

    def __init__(self, decoders: list[Any]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)

    def start(self, features: Tensor) -> State:
        states = [one.start(features) for one in self.decoders]
        self._cuts = [(len(state.picture), len(state.beam)) for state in states]
        return self._joined(states)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        pictures, beams = iter(state.picture), iter(state.beam)
        found, states = [], []
        for decoder, (of_picture, of_beam) in zip(self.decoders, self._cuts, strict=True):
            part = State(tuple(next(pictures) for _ in range(of_picture)), tuple(next(beams) for _ in range(of_beam)))
            log_probs, after = decoder.step(part, tokens)
            found.append(log_probs)
            states.append(after)
        return torch.stack(found).logsumexp(0) - np.log(len(found)), self._joined(states)

    def picture(self, state: State) -> Tensor:
        of_picture, of_beam = self._cuts[0]
        first: Decoder = self.decoders[0]  # type: ignore[assignment]
        return first.picture(State(state.picture[:of_picture], state.beam[:of_beam]))

    def attention_weights(self, state: State) -> None:
        return None

    @staticmethod
    def _joined(states: list[State]) -> State:
        return State(sum((one.picture for one in states), ()), sum((one.beam for one in states), ()))


def evaluation_of(name: str, folds: int) -> Evaluation | None:
    """The scores of a training over the test pictures of its folds; None until all are there."""
    found = [result_of(name, fold) for fold in range(folds)]
    captions = {image: text for one in found if one for image, text in one["captions"].items()}
    if not all(found):
        return None
    everything = tables.read_captions(CACHE / "captions.csv")
    captions = {image: captions[image] for image in sorted(captions)}
    return evaluate(captions, {image: everything[image] for image in captions}, seed=0)


def table(names: list[str], folds: int) -> None:
    """Each training's scores, and its CIDEr-D against the training that it names as `against`."""
    rows = {name: one for name in names if (one := evaluation_of(name, folds))}
    pictures = max((one.scores.pictures for one in rows.values()), default=0)
    print(f"\n{pictures} pictures, {folds} folds\n")
    print("| training | BLEU-1 | BLEU-4 | CIDEr-D | ROUGE-L | distinct | against | CIDEr-D | p | min per fold |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, one in rows.items():
        card, (low, high) = one.scores, one.scores.intervals["cider_d"]
        other = training(name).get("against", "")
        gain, p = "", ""
        if other in rows:
            change: Comparison = compare_captions(rows[other].captions, one.captions, one.references, seed=0)
            cider = change.differences["cider_d"]
            gain = f"{cider.difference:+.1f} ({cider.difference / rows[other].scores.scores['cider_d']:+.0%})"
            p = f"{cider.p_value:.3f}"
        minutes = statistics.mean(found["seconds"] for fold in range(folds) if (found := result_of(name, fold))) / 60
        print(
            f"| {name} | {card.scores['bleu_1']:.1f} | {card.scores['bleu_4']:.1f} | "
            f"{card.scores['cider_d']:.1f} ({low:.1f} to {high:.1f}) | {card.scores['rouge_l']:.1f} | "
            f"{one.diversity['distinct_captions']:.0%} | {other} | {gain} | {p} | {minutes:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first ones, for a quick look")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    files = sorted(path.stem for path in TRAININGS.glob("*.yaml") if path.stem != "base")
    names = given.only or sorted(files, key=lambda name: ("members" in training(name), name))
    weights = str(given.weights.resolve())
    if not (CACHE / "features.h5").exists() and not given.table:
        make_features(given.dataset.resolve(), weights)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for members in (False, True):  # an ensemble waits for its members
        todo = [
            (name, fold)
            for fold in range(given.folds)
            for name in names
            if result_of(name, fold) is None and ("members" in training(name)) == members and not given.table
        ]
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            work = [pool.submit(run_fold, name, fold, weights) for name, fold in todo]
            for done in as_completed(work):
                name, fold, took = done.result()
                best = result_of(name, fold) or {}
                print(f"{name}, fold {fold}: {took:.0f} s, {best['epochs']} epochs, val {best['best']:.1f}", flush=True)
    table(names, given.folds)


if __name__ == "__main__":
    main()
