"""Datasets in other formats than the built-in one, from `captioner init` to the scores."""

import csv
import json
import shutil

import pytest
from reading import pack
from support import run_command, set_param, write_dataset

from pipeline import Captioner, paths


def tiny(project):
    """The captions of the small dataset: (image, caption, split)."""
    with (project / "data/tiny/captions.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def as_coco_in_zips(project, folder):
    """COCO's two files with the images in two archives; the train file has the images of train and val."""
    for part, splits in (("train2017", {"train", "val"}), ("val2017", {"test"})):
        names = list(dict.fromkeys(image for image, _, split in tiny(project) if split in splits))
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        annotations = [{"image_id": names.index(i), "caption": c} for i, c, split in tiny(project) if split in splits]
        (folder / "annotations").mkdir(exist_ok=True)
        content = json.dumps({"images": images, "annotations": annotations})
        (folder / f"annotations/captions_{part}.json").write_text(content)
        images_of = project / "data/tiny/images"
        pack(folder / f"{part}.zip", {f"{part}/{name}": (images_of / name).read_bytes() for name in names})


def as_karpathy(project, folder):
    """Karpathy's file beside a folder of images."""
    shutil.copytree(project / "data/tiny/images", folder / "images")
    images = {}
    for image, caption, split in tiny(project):
        one = images.setdefault(image, {"filename": image, "split": split, "sentences": []})
        one["sentences"].append({"raw": caption})
    first = next(iter(images.values()))
    first["split"] = "restval"
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": list(images.values()), "dataset": "x"}))


def as_shards(project, folder):
    """WebDataset shards, one per split."""
    shards = {"train": {}, "val": {}, "test": {}}
    for image, caption, split in tiny(project):
        shards[split][image] = (project / "data/tiny/images" / image).read_bytes()
        text = image.replace(".png", ".txt")
        shards[split][text] = shards[split].get(text, b"") + caption.encode() + b"\n"
    for split, files in shards.items():
        pack(folder / f"{split}.tar", files)


def as_flickr8k(project, folder):
    """The original token file with its split lists."""
    shutil.copytree(project / "data/tiny/images", folder / "Flicker8k_Dataset")
    lines = [f"{image}#{number % 2}\t{caption}\n" for number, (image, caption, _) in enumerate(tiny(project))]
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = dict.fromkeys(image for image, _, its_split in tiny(project) if its_split == split)
        (folder / f"Flickr_8k.{name}Images.txt").write_text("\n".join(names))


LAYOUTS = [as_coco_in_zips, as_karpathy, as_shards, as_flickr8k]


def replace_dataset(project, layout):
    """Put the small dataset in another layout into data/mine; returns its captions."""
    folder = project / "data/mine"
    folder.mkdir()
    layout(project, folder)
    captions = {caption for _, caption, _ in tiny(project)}
    shutil.rmtree(project / "data/tiny")
    return captions


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_init_and_prepare_read_every_layout(project, layout):
    captions = replace_dataset(project, layout)
    set_param(project, "seed", 5)
    code, _, err = run_command("init", "data/mine", cwd=project)
    assert code == 0, err
    code, _, err = run_command("prepare", cwd=project)
    assert code == 0, err
    assert {row["caption"] for row in table(project / paths.CAPTIONS)} == captions
    assert {row["split"] for row in table(project / paths.IMAGES)} == {"train", "val", "test"}
    assert table(project / paths.SKIPPED_ROWS) == []


@pytest.mark.slow
def test_a_language_without_spaces_trains_by_characters(project):
    chinese = {"red": "\u7ea2\u8272", "green": "\u7eff\u8272", "blue": "\u84dd\u8272"}
    write_dataset(project / "data/tiny", images=54)
    rows = []
    for image, caption, split in tiny(project):
        color = next(word for word in chinese if word in caption)
        rows.append((image, f"\u8fd9\u5f20\u56fe\u7247\u5168\u662f{chinese[color]}\u7684\u3002", split))
    with (project / "data/tiny/captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    set_param(project, "vocab.unit", "character")
    set_param(project, "score.rerank", {"neighbors": 0})
    set_param(project, "train.epochs", 20)
    few_images = "warning: 9 images: the intervals and p-values of so few are too small"
    for stage in ("prepare", "extract", "vocab", "train", "score"):
        code, _, err = run_command(stage, cwd=project)
        assert code == 0, err
        warnings = [line for line in err.splitlines() if "warning" in line]
        assert warnings == ([few_images] if stage == "score" else [])
    scores = json.loads((project / paths.SCORES).read_text())
    assert scores["bleu_4"] > 90
    captioner = Captioner.load(project / paths.MODEL, device="cpu")
    assert captioner(project / "data/tiny/images/012.png") == "\u8fd9\u5f20\u56fe\u7247\u5168\u662f\u7ea2\u8272\u7684"
