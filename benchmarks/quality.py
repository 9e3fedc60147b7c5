"""Five-fold comparison of the trainings in benchmarks/quality, on the same features.

    python benchmarks/quality.py FLICKR8K ENCODER_WEIGHTS [--jobs 2] [--folds 5] [--only NAME ...] [--table]

FLICKR8K is a folder in the `flickr8k` format, ENCODER_WEIGHTS a MobileNetV2 state dict. Every image is in the test part
of one fold, and its caption comes from the model of that fold. Scores are over all images together; differences are
paired by image. Each finished (training, fold) is kept in .cache/quality, so that an interrupted run resumes; `--table`
only prints the results so far. One training takes some minutes on one core, all of them take hours.

A file in benchmarks/quality holds the params that differ from `base.yaml`; `popular-*` are trainings as published
tutorials run them. `extends` names another file to start from, `mirrored` adds the mirrored training images, `members`
lists trainings whose probabilities are averaged, and `against` names the training to compare with.
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
from pipeline.datasets.detection import read_dataset
from pipeline.datasets.entries import CaptionEntry
from pipeline.decoders.decoder import Decoder, State
from pipeline.device import single_threaded
from pipeline.features.feature_file import FeatureFile
from pipeline.files import read_json, write_csv, write_json
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.reranking import RerankOptions
from pipeline.metrics.comparison import compare_captions
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.params import Params, check_params
from pipeline.stages.extract import ExtractFiles, extract
from pipeline.stages.prepare import PrepareFiles, prepare
from pipeline.stages.score import search_options
from pipeline.stages.train import TrainFiles, train
from pipeline.stages.vocab import VocabFiles, vocab

HERE = Path(__file__).parent
TRAININGS = HERE / "quality"
CACHE = HERE.parent / ".cache" / "quality"
FOLDS, VAL = 5, 80
MIRRORED = "mirrored-"
SECTIONS = ("vocab", "decoder", "train", "score")


def training(name: str) -> dict[str, Any]:
    """The content of a file in benchmarks/quality, merged with what it extends."""
    with (TRAININGS / f"{name}.yaml").open(encoding="utf-8") as file:
        content: dict[str, Any] = YAML(typ="safe").load(file) or {}
    if name == "base":
        return content
    return _merged(training(content.pop("extends", "base")), content)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def params_of(name: str, images: Path, weights: str) -> Params:
    """The params of a training."""
    given = training(name)
    content = {section: given[section] for section in SECTIONS if section in given}
    if content.get("score", {}).get("rerank", {}).get("neighbors"):
        content["train"] = {**content.get("train", {}), "store_captions": True}
    return check_params(
        {
            "seed": given.get("seed", 17),
            "data": {
                "format": "table",
                "captions": str(images / "captions.csv"),
                "images": str(images),
                "max_skipped": 0.0,
            },
            "encoder": {"name": "mobilenet_v2", "weights": weights, "grid": 7},
            "run": {"device": "cpu", "threads": 1},
            **content,
        }
    )


def make_features(dataset: Path, weights: str) -> None:
    """One features.h5 of all images and of their mirror images."""
    images = CACHE / "images"
    images.mkdir(parents=True, exist_ok=True)
    entries = read_dataset("flickr8k", dataset)
    rows = [(entry.image, entry.caption) for entry in entries if isinstance(entry, CaptionEntry)]
    for name in sorted({image for image, _ in rows}):
        if not (images / name).exists():
            shutil.copy(dataset / "Images" / name, images / name)
        mirrored = images / f"{MIRRORED}{Path(name).stem}.png"
        if not mirrored.exists():
            with Image.open(images / name) as image:
                ImageOps.mirror(image).save(mirrored)
    both = [*rows, *((f"{MIRRORED}{Path(name).stem}.png", caption) for name, caption in rows)]
    write_csv(images / "captions.csv", ("image", "caption"), both)
    params = params_of("base", images, weights)
    prepared = PrepareFiles(
        captions=CACHE / "captions.csv",
        images=CACHE / "images.csv",
        skipped=CACHE / "skipped.csv",
        hash_cache=CACHE / "hashes.csv",
    )
    prepare(prepared, params)
    extracted = ExtractFiles(
        images=prepared.images,
        skipped_by_prepare=prepared.skipped,
        features=CACHE / "features.h5",
        encoder=CACHE / "encoder.safetensors",
        skipped=CACHE / "skipped-by-extract.csv",
    )
    extract(extracted, params, store=CACHE / "store")


def split_of(fold: int) -> dict[str, str]:
    """The split of each image in a fold: a fifth is test, `VAL` others are val."""
    names = sorted(name for name in tables.read_captions(CACHE / "captions.csv") if not name.startswith(MIRRORED))
    order = np.random.default_rng(0).permutation(len(names))
    test = set(np.array_split(order, FOLDS)[fold].tolist())
    others = [index for index in np.roll(order, -(fold + 1) * len(names) // FOLDS).tolist() if index not in test]
    val = set(others[:VAL])
    return {name: "test" if i in test else "val" if i in val else "train" for i, name in enumerate(names)}


def key_of(name: str, fold: int) -> str:
    """The name of a result: it depends on the content of the training, not on its name."""
    content = json.dumps([training(name), fold], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def result_of(name: str, fold: int) -> dict[str, Any] | None:
    path = CACHE / "results" / f"{key_of(name, fold)}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path)
    return found


def run_fold(name: str, fold: int, weights: str) -> tuple[str, int, float]:
    """Train, or load the members, and caption the fold's test images."""
    began = time.monotonic()
    params = params_of(name, CACHE / "images", weights)
    given = training(name)
    folder = CACHE / "models" / key_of(name, fold)
    splits = split_of(fold)
    test = [image for image, split in splits.items() if split == "test"]
    epochs, best = 0, 0.0
    if "members" in given:
        members = [CACHE / "models" / key_of(one, fold) / "model.safetensors" for one in given["members"]]
    else:
        members = [folder / "model.safetensors"]
        epochs, best = _train(params, folder, splits, mirrored=given.get("mirrored", False))
    models = [TrainedModel.load(path) for path in members]
    model = models[0]
    if len(models) > 1:
        model = replace(model, decoder=Ensemble([one.decoder for one in models]))  # type: ignore[arg-type]
    features = FeatureFile.open(CACHE / "features.h5")
    search = search_options(params.score, model.vocabulary)
    rerank = RerankOptions(**params.score.rerank.model_dump())
    with single_threaded():
        found = model.search(torch.from_numpy(features.load(test)).float(), search, rerank)
    captions = {image: model.vocabulary.decode(several[0].tokens) for image, several in zip(test, found, strict=True)}
    took = time.monotonic() - began
    result = {"name": name, "fold": fold, "captions": captions, "epochs": epochs, "best": best, "seconds": took}
    write_json(CACHE / "results" / f"{key_of(name, fold)}.json", result)
    return name, fold, took


def _train(params: Params, folder: Path, splits: dict[str, str], *, mirrored: bool) -> tuple[int, float]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, texts in tables.read_captions(CACHE / "captions.csv").items():
        view = image.startswith(MIRRORED)
        name = f"{Path(image).stem.removeprefix(MIRRORED)}.jpg" if view else image
        if not view or (mirrored and splits[name] == "train"):
            rows += [(image, text, splits[name]) for text in texts]
    write_csv(folder / "captions.csv", tables.CAPTION_COLUMNS, rows)
    vocab(VocabFiles(captions=folder / "captions.csv", vocabulary=folder / "vocab.json"), params)
    files = TrainFiles(
        captions=folder / "captions.csv",
        features=CACHE / "features.h5",
        vocabulary=folder / "vocab.json",
        encoder=CACHE / "encoder.safetensors",
        model=folder / "model.safetensors",
        metrics=folder / "training.csv",
        checkpoints=folder / "checkpoints",
    )
    result = train(files, params).result
    return result.epochs, result.best.val_cider_d


class Ensemble(nn.Module):
    """Several decoders as one for the search: averages their probabilities of the next token. Re-ranking uses the first
    decoder's image vectors."""

    def __init__(self, decoders: list[Decoder]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)

    def start(self, features: Tensor) -> State:
        states = [decoder.start(features) for decoder in self.decoders]
        self._sizes = [(len(state.image), len(state.beam)) for state in states]
        return self._joined(states)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        image, beam = iter(state.image), iter(state.beam)
        log_probs, states = [], []
        for decoder, (image_parts, beam_parts) in zip(self.decoders, self._sizes, strict=True):
            part = State(tuple(next(image) for _ in range(image_parts)), tuple(next(beam) for _ in range(beam_parts)))
            one, after = decoder.step(part, tokens)
            log_probs.append(one)
            states.append(after)
        return torch.stack(log_probs).logsumexp(0) - np.log(len(log_probs)), self._joined(states)

    def image_vector(self, state: State) -> Tensor:
        image_parts, beam_parts = self._sizes[0]
        first: Decoder = self.decoders[0]  # type: ignore[assignment]
        return first.image_vector(State(state.image[:image_parts], state.beam[:beam_parts]))

    def attention_weights(self, state: State) -> None:
        return None

    @staticmethod
    def _joined(states: list[State]) -> State:
        return State(sum((state.image for state in states), ()), sum((state.beam for state in states), ()))


def evaluation_of(name: str, folds: int) -> Evaluation | None:
    """The scores of a training over the test images of its folds; None until all folds are finished."""
    found = [result_of(name, fold) for fold in range(folds)]
    captions = {image: text for one in found if one for image, text in one["captions"].items()}
    if not all(found):
        return None
    everything = tables.read_captions(CACHE / "captions.csv")
    captions = {image: captions[image] for image in sorted(captions)}
    return evaluate(captions, {image: everything[image] for image in captions}, seed=0)


def table(names: list[str], folds: int) -> None:
    """Print the scores of each training, and its CIDEr-D minus that of the training in `against`."""
    rows = {name: one for name in names if (one := evaluation_of(name, folds))}
    images = max((one.scores.images for one in rows.values()), default=0)
    print(f"\n{images} images, {folds} folds\n")
    print("| training | BLEU-1 | BLEU-4 | CIDEr-D | ROUGE-L | distinct | against | CIDEr-D | p | min per fold |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, one in rows.items():
        scores, (low, high) = one.scores.corpus, one.scores.intervals["cider_d"]
        other = training(name).get("against", "")
        gain, p = "", ""
        if other in rows:
            change = compare_captions(rows[other].captions, one.captions, one.references, seed=0)
            cider = change.differences["cider_d"]
            gain = f"{cider.difference:+.1f} ({cider.difference / rows[other].scores.corpus['cider_d']:+.0%})"
            p = f"{cider.p_value:.3f}"
        minutes = statistics.mean(found["seconds"] for fold in range(folds) if (found := result_of(name, fold))) / 60
        print(
            f"| {name} | {scores['bleu_1']:.1f} | {scores['bleu_4']:.1f} | "
            f"{scores['cider_d']:.1f} ({low:.1f} to {high:.1f}) | {scores['rouge_l']:.1f} | "
            f"{one.diversity['distinct_captions']:.0%} | {other} | {gain} | {p} | {minutes:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folds", type=int, default=FOLDS, help="run only the first folds")
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
            for finished in as_completed(work):
                name, fold, took = finished.result()
                best = result_of(name, fold) or {}
                print(f"{name}, fold {fold}: {took:.0f} s, {best['epochs']} epochs, val {best['best']:.1f}", flush=True)
    table(names, given.folds)


if __name__ == "__main__":
    main()
