"""Comparison of training runs on Flickr8k: scores, intervals and paired differences.

    python benchmarks/quality.py folds FLICKR8K WEIGHTS [--jobs 2] [--only NAME ...] [--table]
    python benchmarks/quality.py official FLICKR8K WEIGHTS [--split test] [--jobs 2] [--only NAME ...] [--table]

FLICKR8K is a folder in the `flickr8k` format, WEIGHTS the folder of the encoders' weights files. `folds` runs the
params files of benchmarks/quality/folds: every image is in the test part of one of five folds, and its caption comes
from the model of that fold. `official` runs those of benchmarks/quality/official on the split lists beside the
captions; it captions and scores val, where choices are made, unless `--split test` is given.

Scores are over all images together; differences are paired by image. Models and captions are kept in .cache/quality, so
that an interrupted run resumes; `--table` only prints the results so far.

A params file holds what differs from `base.yaml`; `popular-*` have the settings of published tutorials. Keys
beside the params: `extends` names the file that this one changes; `layers` lists layers of the encoder whose features
are joined, region by region; `mirrored` adds the mirrored training images;
`train_images` and `captions_per_image` limit the training data to the first ones; `members` lists files whose models'
probabilities are averaged; `against` names the file to compare with. Files that differ only in `score` share one model.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from ruamel.yaml import YAML
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.datasets import tables
from pipeline.datasets.detection import read_dataset
from pipeline.datasets.entries import CaptionEntry
from pipeline.decoders.decoder import Decoder, State
from pipeline.device import single_threaded
from pipeline.encoders.spec import imported_spec
from pipeline.features.feature_file import FeatureFile, Features, write_feature_file
from pipeline.files import read_json, write_bytes, write_csv, write_json
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.reranking import RerankOptions
from pipeline.metrics.comparison import compare_captions
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.params import Params
from pipeline.params_file import check_params
from pipeline.stages.extract import ExtractFiles, extract
from pipeline.stages.prepare import PrepareFiles, prepare
from pipeline.stages.score import search_options
from pipeline.stages.train import TrainFiles, train
from pipeline.stages.vocab import VocabFiles, vocab

TRAININGS = Path(__file__).parent / "quality"
CACHE = Path(__file__).parent.parent / ".cache" / "quality"
FOLDS, VAL = 5, 80
MIRRORED = "mirrored-"


@dataclass(frozen=True)
class Comparison:
    """The training runs of a folder in benchmarks/quality, on one dataset."""

    name: str
    """folds or official."""
    dataset: Path
    weights: Path
    split: str
    """The split that is captioned and scored, of each fold."""

    @property
    def cache(self) -> Path:
        return CACHE / self.name

    @property
    def folds(self) -> int:
        return FOLDS if self.name == "folds" else 1

    @cached_property
    def names(self) -> list[str]:
        return sorted(path.stem for path in (TRAININGS / self.name).glob("*.yaml") if path.stem != "base")

    @cached_property
    def captions(self) -> dict[str, list[str]]:
        return tables.read_captions(self.cache / "captions.csv")

    def training(self, name: str) -> dict[str, Any]:
        """The content of a training's file, merged with what it extends."""
        with (TRAININGS / self.name / f"{name}.yaml").open(encoding="utf-8") as file:
            content: dict[str, Any] = YAML(typ="safe").load(file) or {}
        if name == "base":
            return content
        return _merged(self.training(content.pop("extends", "base")), content)

    def params(self, name: str) -> Params:
        """The params of a training. Every model stores its captions, so that each search can re-rank."""
        given = self.training(name)
        images = self.cache / "images"
        encoder = {**given["encoder"], "weights": str(self.weights / given["encoder"]["weights"])}
        data = {"captions": str(images / "captions.csv"), "images": str(images), "max_skipped": 0.0}
        return check_params(
            {
                "seed": given.get("seed", 17),
                "data": {"format": "table", **data},
                "encoder": encoder,
                "vocab": given["vocab"],
                "decoder": given["decoder"],
                "train": {**given["train"], "store_captions": True},
                "score": given["score"],
                "run": {"device": "cpu", "threads": 1},
            }
        )

    def features(self, name: str, layer: str | None = None) -> Path:
        """The folder with the features of a training's encoder, or of one of its `layers`."""
        given = self.training(name)
        encoder = {**given["encoder"], "layer": layer} if layer else given["encoder"]
        layers = None if layer else given.get("layers")
        return self.cache / f"features-{_digest([encoder, layers] if layers else encoder)}"

    def model(self, name: str, fold: int) -> Path:
        """The folder of a trained model. It depends on the content of the training, not on its name."""
        given = {key: value for key, value in self.training(name).items() if key not in ("score", "against")}
        return self.cache / "models" / _digest([given, fold])

    def result(self, name: str, fold: int) -> Path:
        """The file with the captions of a model for the scored split."""
        given = {key: value for key, value in self.training(name).items() if key != "against"}
        return self.cache / "results" / f"{_digest([given, fold])}-{self.split}.json"

    def splits(self, fold: int) -> dict[str, str]:
        """The split of each image. A fifth is test in a fold, and `VAL` others are val."""
        if self.name == "official":
            with (self.cache / "splits.json").open(encoding="utf-8") as file:
                found: dict[str, str] = json.load(file)
            return found
        names = sorted(name for name in self.captions if not name.startswith(MIRRORED))
        order = np.random.default_rng(0).permutation(len(names))
        test = set(np.array_split(order, FOLDS)[fold].tolist())
        others = [index for index in np.roll(order, -(fold + 1) * len(names) // FOLDS).tolist() if index not in test]
        val = set(others[:VAL])
        return {name: "test" if i in test else "val" if i in val else "train" for i, name in enumerate(names)}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make_images(of: Comparison) -> None:
    """A folder of all images, with a mirrored copy of each that may be used for training, and captions.csv."""
    images = of.cache / "images"
    images.mkdir(parents=True, exist_ok=True)
    entries = [one for one in read_dataset("flickr8k", of.dataset) if isinstance(one, CaptionEntry)]
    if of.name == "official":
        entries = [one for one in entries if one.split]
        write_json(of.cache / "splits.json", {one.image: one.split for one in entries})
    for_training = {one.image for one in entries if of.name == "folds" or one.split == "train"}
    rows = [(entry.image, entry.caption) for entry in entries]
    for name in sorted({image for image, _ in rows}):
        if not (images / name).exists():
            shutil.copy(of.dataset / "Images" / name, images / name)
        mirrored = images / f"{MIRRORED}{Path(name).stem}.png"
        if name in for_training and not mirrored.exists():
            with Image.open(images / name) as image:
                ImageOps.mirror(image).save(mirrored)
    rows += [(f"{MIRRORED}{Path(name).stem}.png", caption) for name, caption in rows if name in for_training]
    write_csv(images / "captions.csv", ("image", "caption"), rows)
    prepare(_prepared(of), of.params("base"))


def _prepared(of: Comparison) -> PrepareFiles:
    return PrepareFiles(
        captions=of.cache / "captions.csv",
        images=of.cache / "images.csv",
        skipped=of.cache / "skipped.csv",
        hash_cache=of.cache / "image-hashes.json",
    )


def make_features(of: Comparison, name: str) -> None:
    """The features of all images by the encoder of a training."""
    params = of.params(name)
    layers = of.training(name).get("layers")
    if layers is None:
        return _extract(of, of.features(name), params)
    folders = [of.features(name, layer) for layer in layers]
    for layer, folder in zip(layers, folders, strict=True):
        encoder = params.encoder.model_copy(update={"layer": layer})
        _extract(of, folder, params.model_copy(update={"encoder": encoder}))
    _join_features(folders, of.features(name), f"layers {' '.join(layers)}")


def _extract(of: Comparison, folder: Path, params: Params) -> None:
    if (folder / "features.h5").exists():
        return
    prepared = _prepared(of)
    extracted = ExtractFiles(
        images=prepared.images,
        skipped_by_prepare=prepared.skipped,
        features=folder / "features.h5",
        encoder=folder / "encoder.safetensors",
        skipped=folder / "skipped.csv",
    )
    extract(extracted, params, store=of.cache / "store")


def _join_features(folders: Sequence[Path], joined: Path, name: str) -> None:
    """Join the channels of several features files, each scaled to the mean square of the first."""
    files = [FeatureFile.open(folder / "features.h5") for folder in folders]
    some = files[0].images[:500]
    sizes = [float(np.sqrt(np.square(file.load(some).astype(np.float32)).mean())) for file in files]

    def read(images: Sequence[str]) -> Features:
        parts = [file.load(images) * np.float32(sizes[0] / size) for file, size in zip(files, sizes, strict=True)]
        return np.concatenate(parts, axis=2).astype(np.float16)

    channels = sum(file.channels for file in files)
    shape = files[0].regions, channels
    write_feature_file(joined / "features.h5", imported_spec(name, channels), files[0].images, shape, read)
    write_bytes(joined / "encoder.safetensors", save({}))


def run_model(of: Comparison, names: Sequence[str], fold: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Run the params files `names`, which share a model, one after another: the first run trains it."""
    return [run_fold(of, name, fold) for name in names]


def run_fold(of: Comparison, name: str, fold: int) -> tuple[str, int, dict[str, Any]]:
    """Train, or load the members, and caption the scored images of a fold."""
    params, given = of.params(name), of.training(name)
    members = given.get("members", [name])
    for member in members:
        if not (of.model(member, fold) / "training.json").exists():
            _train(of, member, fold)
    trained = [read_json(of.model(member, fold) / "training.json") for member in members]
    models = [TrainedModel.load(of.model(member, fold) / "model.safetensors") for member in members]
    model = models[0]
    if len(models) > 1:
        model = replace(model, decoder=Ensemble([one.decoder for one in models]))  # type: ignore[arg-type]
    features = FeatureFile.open(of.features(name) / "features.h5")
    images = sorted(image for image, split in of.splits(fold).items() if split == of.split)
    search, rerank = search_options(params.score, model.vocabulary), RerankOptions(**params.score.rerank.model_dump())
    captions = {}
    with single_threaded():
        for start in range(0, len(images), 200):
            several = images[start : start + 200]
            found = model.search(torch.from_numpy(features.load(several)).float(), search, rerank)
            captions |= {
                image: model.vocabulary.decode(one[0].tokens) for image, one in zip(several, found, strict=True)
            }
    result = {
        "name": name,
        "captions": captions,
        "epochs": max(one["epochs"] for one in trained),
        "best": trained[0]["best"],
        "seconds": sum(one["seconds"] for one in trained),
    }
    write_json(of.result(name, fold), result)
    return name, fold, result


def _train(of: Comparison, name: str, fold: int) -> None:
    began = time.monotonic()
    params, given, splits = of.params(name), of.training(name), of.splits(fold)
    folder, features = of.model(name, fold), of.features(name)
    folder.mkdir(parents=True, exist_ok=True)
    rows, train_images = [], 0
    for image, texts in of.captions.items():
        view = image.startswith(MIRRORED)
        split = splits.get(f"{Path(image).stem.removeprefix(MIRRORED)}.jpg" if view else image)
        if split is None or (view and not (given.get("mirrored") and split == "train")):
            continue
        if split == "train":
            train_images += not view
            if train_images > given.get("train_images", len(of.captions)):
                continue
            texts = texts[: given.get("captions_per_image")]
        rows += [(image, text, split) for text in texts]
    write_csv(folder / "captions.csv", tables.CAPTION_COLUMNS, rows)
    vocab(VocabFiles(captions=folder / "captions.csv", vocabulary=folder / "vocab.json"), params)
    files = TrainFiles(
        captions=folder / "captions.csv",
        features=features / "features.h5",
        vocabulary=folder / "vocab.json",
        encoder=features / "encoder.safetensors",
        model=folder / "model.safetensors",
        metrics=folder / "training.csv",
        checkpoints=folder / "checkpoints",
    )
    report = train(files, params)
    seconds = time.monotonic() - began
    found = {"epochs": report.epochs, "best": report.best.val_cider_d, "seconds": seconds}
    write_json(folder / "training.json", found)


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


def evaluation_of(of: Comparison, name: str) -> Evaluation | None:
    """The scores of a training over the images of its folds; None until all folds are finished."""
    results = [of.result(name, fold) for fold in range(of.folds)]
    if not all(path.exists() for path in results):
        return None
    captions = {image: text for path in results for image, text in read_json(path)["captions"].items()}
    captions = {image: captions[image] for image in sorted(captions)}
    return evaluate(captions, {image: of.captions[image] for image in captions}, seed=0)


def table(of: Comparison, names: Sequence[str]) -> None:
    """Print the scores of each training, and its CIDEr-D minus that of the training in `against`."""
    rows = {name: one for name in names if (one := evaluation_of(of, name))}
    images = max((one.scores.images for one in rows.values()), default=0)
    print(f"\n{images} images of {of.split}, {of.folds} fold(s)\n")
    print("| training | BLEU-1 | BLEU-4 | CIDEr-D | ROUGE-L | distinct | against | CIDEr-D | p | epochs | min |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, one in rows.items():
        scores, intervals = one.scores.corpus, one.scores.intervals
        other = of.training(name).get("against", "")
        gain, p = "", ""
        if other in rows:
            change = compare_captions(rows[other].captions, one.captions, one.references, seed=0)
            cider = change.differences["cider_d"]
            gain = f"{cider.difference:+.1f} ({cider.difference / rows[other].scores.corpus['cider_d']:+.0%})"
            p = f"{cider.p_value:.3f}"
        results = [read_json(of.result(name, fold)) for fold in range(of.folds)]
        minutes = statistics.mean(result["seconds"] for result in results) / 60
        epochs = statistics.mean(result["epochs"] for result in results)
        ranges = {metric: "{:.1f} to {:.1f}".format(*intervals[metric]) for metric in ("bleu_4", "cider_d")}
        print(
            f"| {name} | {scores['bleu_1']:.1f} | {scores['bleu_4']:.1f} ({ranges['bleu_4']}) | "
            f"{scores['cider_d']:.1f} ({ranges['cider_d']}) | {scores['rouge_l']:.1f} | "
            f"{one.diversity['distinct_captions']:.0%} | {other} | {gain} | {p} | {epochs:.0f} | {minutes:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=["folds", "official"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--split", choices=["val", "test"], help="default: test of folds, val of official")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    split = given.split or ("test" if given.comparison == "folds" else "val")
    for folder in (given.dataset, given.weights):
        if not folder.is_dir():
            parser.error(f"{folder}: not a folder")
    of = Comparison(given.comparison, given.dataset.resolve(), given.weights.resolve(), split)
    names = given.only or sorted(of.names, key=lambda name: ("members" in of.training(name), name))
    if not given.table:
        run(of, names, given.jobs)
    table(of, names)


def run(of: Comparison, names: Sequence[str], jobs: int) -> None:
    """Train and caption whatever has no result yet."""
    if not (of.cache / "images.csv").exists():
        make_images(of)
    for name in names:
        if not (of.features(name) / "features.h5").exists():
            make_features(of, name)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for members in (False, True):  # an ensemble waits for its members
        todo: dict[Path, tuple[list[str], int]] = {}
        for fold in range(of.folds):
            for name in names:
                if not of.result(name, fold).exists() and ("members" in of.training(name)) == members:
                    todo.setdefault(of.model(name, fold), ([], fold))[0].append(name)
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for finished in as_completed([pool.submit(run_model, of, *one) for one in todo.values()]):
                for name, fold, found in finished.result():
                    shown = f"{found['seconds'] / 60:.1f} min, {found['epochs']} epochs, val {found['best']:.1f}"
                    print(f"{name}, fold {fold}: {shown}", flush=True)


if __name__ == "__main__":
    main()
