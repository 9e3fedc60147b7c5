"""Datasets of other formats than the built-in one, from `captioner init` to the scores, through real dvc commands."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT, run_command, set_param, write_dataset

from pipeline import Captioner, paths

dvc = shutil.which("dvc", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
needs_dvc = pytest.mark.skipif(not dvc, reason="needs dvc")


def tiny(project):
    """The rows of the small dataset: (image, caption, split)."""
    with (project / "data/tiny/captions.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def as_coco_in_zips(project, folder):
    """COCO's two files and its pictures in two archives; what is train or val goes to train."""
    for part, splits in (("train2017", {"train", "val"}), ("val2017", {"test"})):
        names = list(dict.fromkeys(image for image, _, split in tiny(project) if split in splits))
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        said = [{"image_id": names.index(i), "caption": c} for i, c, split in tiny(project) if split in splits]
        (folder / "annotations").mkdir(exist_ok=True)
        content = json.dumps({"images": images, "annotations": said})
        (folder / f"annotations/captions_{part}.json").write_text(content)
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for name in names:
                archive.write(project / "data/tiny/images" / name, f"{part}/{name}")


def as_karpathy(project, folder):
    """Karpathy's file beside a folder of pictures."""
    shutil.copytree(project / "data/tiny/images", folder / "images")
    images = {}
    for image, caption, split in tiny(project):
        one = images.setdefault(image, {"filename": image, "split": split, "sentences": []})
        one["sentences"].append({"raw": caption})
    first = next(iter(images.values()))
    first["split"] = "restval"
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": list(images.values()), "dataset": "x"}))


def as_shards(project, folder):
    """WebDataset's shards, one per split."""
    captions = {}
    for image, caption, split in tiny(project):
        captions.setdefault((image, split), []).append(caption)
    for split in ("train", "val", "test"):
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            for image, its_split in captions:
                if its_split == split:
                    text = "\n".join(captions[image, split]).encode()
                    entry = tarfile.TarInfo(image.replace(".png", ".txt"))
                    entry.size = len(text)
                    archive.add(project / "data/tiny/images" / image, image)
                    archive.addfile(entry, io.BytesIO(text))


def as_flickr8k(project, folder):
    """The original token file with its lists."""
    shutil.copytree(project / "data/tiny/images", folder / "Flicker8k_Dataset")
    lines = [f"{image}#{number % 2}\t{caption}\n" for number, (image, caption, _) in enumerate(tiny(project))]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = dict.fromkeys(image for image, _, its_split in tiny(project) if its_split == split)
        (folder / f"Flickr_8k.{name}Images.txt").write_text("\n".join(names))


@needs_dvc
@pytest.mark.parametrize("layout", [as_coco_in_zips, as_karpathy, as_shards, as_flickr8k])
def test_dvc_repro_goes_from_a_dataset_to_its_scores(project, layout):
    folder = project / "data/mine"
    folder.mkdir()
    layout(project, folder)
    captions = {caption for _, caption, _ in tiny(project)}
    shutil.rmtree(project / "data/tiny")
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, project / name)
    set_param(project, "train.epochs", 1)
    set_param(project, "seed", 5)
    code, _, said = run_command("init", "data/mine", cwd=project)
    assert code == 0, said
    dvc_says(project, "init", "-q", "--no-scm")
    said = dvc_says(project, "repro")
    assert "18 images" in said
    scores = json.loads((project / paths.SCORES).read_text())
    assert scores["pictures"] == 3
    with (project / paths.CAPTIONS).open(newline="") as file:
        assert {row["caption"] for row in csv.DictReader(file)} == captions
    with (project / paths.SKIPPED).open(newline="") as file:
        assert list(csv.DictReader(file)) == []
    assert "data:image/jpeg" in (project / paths.REPORT).read_text()
    assert "up to date" in dvc_says(project, "repro")


def dvc_says(project, *arguments):
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [dvc, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_language_without_spaces_trains_by_characters(project):
    chinese = {"red": "\u7ea2\u8272", "green": "\u7eff\u8272", "blue": "\u84dd\u8272"}
    write_dataset(project / "data/tiny", pictures=54)
    rows = []
    for image, caption, split in tiny(project):
        colour = next(word for word in chinese if word in caption)
        rows.append((image, f"\u8fd9\u5f20\u56fe\u7247\u5168\u662f{chinese[colour]}\u7684\u3002", split))
    with (project / "data/tiny/captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    set_param(project, "vocab.unit", "character")
    set_param(project, "score.neighbours", 0)
    set_param(project, "train.epochs", 20)
    for stage in ("prepare", "extract", "vocab", "train", "score"):
        code, _, said = run_command(stage, cwd=project)
        assert code == 0, said
        assert "warning" not in said
    scores = json.loads((project / paths.SCORES).read_text())
    assert scores["bleu_4"] > 90
    captioner = Captioner.load(project / paths.MODEL, device="cpu")
    assert captioner(project / "data/tiny/images/012.png") == "\u8fd9\u5f20\u56fe\u7247\u5168\u662f\u7ea2\u8272\u7684"
