"""Captions generated for the built-in dataset are true of the drawn scenes; needs the outputs of `make`."""

import csv
import json
import re
import subprocess

import numpy as np
import pytest
from ruamel.yaml import YAML
from support import ROOT, needs_git

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OBJECT = re.compile(r"\b(small|large) (\w+) (ring|cross|triangle)\b")
RELATION = re.compile(r"\bto the (left|right) of a (?:small|large)|\b(above|below)\b")
PLACE = re.compile(r"\bon the (left|right)\b|\bat the (top|bottom)\b|\bin the (middle)\b")


def is_true(caption, scene):
    """Whether every size, color, shape and position or relation in `caption` matches the scene."""
    drawn = [(thing["size"], thing["colour"], thing["shape"]) for thing in scene["objects"]]
    named = OBJECT.findall(caption)
    relations = [next(filter(None, found)) for found in RELATION.findall(caption)]
    places = [next(filter(None, found)) for found in PLACE.findall(caption)]
    if len(drawn) == 1:
        return named == drawn and places == [scene["relation"]] and not relations
    forwards = named == drawn and relations == [scene["relation"]]
    backwards = named == drawn[::-1] and relations == [OPPOSITE.get(scene["relation"])]
    return (forwards or backwards) and not places


@pytest.fixture(scope="module")
def scenes():
    path = ROOT / "data/scenes/scenes.json"
    if not path.exists() or not (ROOT / "models/captioner.safetensors").exists():
        pytest.skip("needs the built-in dataset and its model: run `make` first")
    return {scene["image"]: scene for scene in json.loads(path.read_text())}


def params_of(lock):
    """The params of each stage of a dvc.lock."""
    return {name: stage.get("params") for name, stage in YAML(typ="safe", pure=True).load(lock)["stages"].items()}


@pytest.fixture(scope="module")
def generated(scenes):
    """The captions of the test images, if the model was trained with the committed params."""
    git = ("git", "-c", f"safe.directory={ROOT}", "show", "HEAD:dvc.lock")
    committed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if committed.returncode:
        pytest.skip("needs the commit of dvc.lock: this folder is no git repository")
    if params_of(committed.stdout) != params_of(ROOT / "dvc.lock"):
        pytest.skip("the workspace holds the results of other params than those of the last commit")
    with (ROOT / "metrics/captions.csv").open(newline="") as file:
        captions = {row["image"]: row["caption"] for row in csv.DictReader(file)}
    if not captions.keys() <= scenes.keys():
        pytest.skip("the workspace holds the results of another dataset: run `make` first")
    return captions


def share_true(captions, scenes):
    return float(np.mean([is_true(caption, scenes[image]) for image, caption in captions.items()]))


def test_every_reference_is_true_and_false_of_a_changed_scene(scenes):
    with (ROOT / "data/scenes/captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(is_true(row["caption"], scenes[row["image"]]) for row in rows)
    for attribute, other in (("size", "tiny"), ("colour", "pink"), ("shape", "cone")):
        for row in rows[:50]:
            scene = scenes[row["image"]]
            changed = [{**scene["objects"][0], attribute: other}, *scene["objects"][1:]]
            assert not is_true(row["caption"], {**scene, "objects": changed})
    assert not any(is_true(row["caption"], {**scenes[row["image"]], "relation": "inside"}) for row in rows[:50])


@needs_git
def test_at_least_nine_in_ten_generated_captions_are_true(generated, scenes):
    assert len(generated) == 100
    assert share_true(generated, scenes) >= 0.9


@needs_git
def test_bleu_4_is_at_least_sixty(generated):
    assert json.loads((ROOT / "metrics/scores.json").read_text())["bleu_4"] >= 60


@needs_git
def test_with_the_features_of_other_images_captions_are_seldom_true(generated, scenes):
    import torch

    from pipeline.decoders.beam_search import beam_search
    from pipeline.decoders.search import SearchOptions
    from pipeline.features.feature_file import FeatureFile
    from pipeline.inference.model_file import TrainedModel

    model = TrainedModel.load(ROOT / "models/captioner.safetensors")
    images = list(generated)
    rows = torch.from_numpy(FeatureFile.open(ROOT / "data/interim/features.h5").load(images)).float()

    def captions(features):
        found = beam_search(model.decoder, features, SearchOptions())
        return {image: model.vocabulary.decode(best.tokens) for image, (best,) in zip(images, found, strict=True)}

    assert share_true(captions(rows), scenes) >= 0.9
    assert share_true(captions(rows.roll(1, 0)), scenes) <= 0.1
