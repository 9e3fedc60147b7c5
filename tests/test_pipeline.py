"""All stages and predict, end to end, on a small dataset."""

import csv
import json

import numpy as np
import pytest
from support import run_command, run_stages, set_param

from pipeline import Captioner, paths
from pipeline.encoders.images import preprocess_image

STAGES = ("code", "prepare", "extract", "vocab", "train", "score", "report")


def outputs(project):
    """The bytes of every output by path."""
    found = [path for name, path in vars(paths).items() if name.isupper() and name not in ("PARAMS", "CODE")]
    found += [paths.CODE / file.name for file in (project / paths.CODE).iterdir()]
    return {path: (project / path).read_bytes() for path in found}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_pipeline_gives_the_same_bytes_twice(project):
    messages = run_stages(project, *STAGES)
    first = outputs(project)
    assert "18 images (12 train, 3 val, 3 test), 36 captions" in messages["prepare"]
    assert "18 images, 0 from the store, 18 encoded" in messages["extract"]
    assert "BLEU-4" in messages["score"]
    scores = json.loads(first[paths.SCORES])
    assert scores["images"] == 3
    assert 0 <= scores["bleu_4"] <= 100
    assert len(rows(project / paths.TRAINING)) == 3
    assert [row["image"] for row in rows(project / paths.SCORED_CAPTIONS)] == ["012.png", "013.png", "014.png"]

    for path in first:
        (project / path).unlink()
    again = run_stages(project, *STAGES)
    assert "18 images, 18 from the store, 0 encoded" in again["extract"]
    assert outputs(project) == first

    import shutil

    shutil.rmtree(project / ".cache")
    set_param(project, "run.workers", 1)
    run_stages(project, *STAGES)
    assert outputs(project) == first


def test_a_typo_in_a_caption_changes_nothing_that_extract_reads(project):
    run_stages(project, "prepare")
    before = (project / paths.IMAGES).read_bytes(), (project / paths.SKIPPED_ROWS).read_bytes()
    table = project / "data/tiny/captions.csv"
    table.write_text(table.read_text().replace("all red", "al red"))
    run_stages(project, "prepare")
    assert ((project / paths.IMAGES).read_bytes(), (project / paths.SKIPPED_ROWS).read_bytes()) == before


def test_bad_captions_and_images_are_listed_and_the_others_are_used(project):
    table = project / "data/tiny/captions.csv"
    with table.open("a") as file:
        file.write("gone.png,never there,train\n../secret.png,outside,train\n003.png,,train\n")
    (project / "data/tiny/images/004.png").write_bytes(b"broken")
    set_param(project, "data.max_skipped", 0.2)
    messages = run_stages(project, *STAGES)
    assert "line 38: gone.png: " in messages["prepare"]
    found = {(row["stage"], row["image"]): row["reason"] for row in rows(project / paths.SKIPPED)}
    assert found.keys() == {
        ("prepare", "../secret.png"),
        ("prepare", "003.png"),
        ("prepare", "gone.png"),
        ("extract", "004.png"),
    }
    assert json.loads((project / paths.SCORES).read_text())["images"] == 3


def test_predict_gives_the_captions_of_score(project):
    run_stages(project, *STAGES)
    images = [f"data/tiny/images/{number:03d}.png" for number in (12, 13, 14)]
    code, out, stderr = run_command("predict", "--json", *images, cwd=project)
    assert (code, stderr) == (0, f"model: {paths.MODEL}, trained on 12 images of tiny/captions.csv\n")
    predictions = [json.loads(line) for line in out.splitlines()]
    scored = {row["image"]: row["caption"] for row in rows(project / paths.SCORED_CAPTIONS)}
    assert [prediction["captions"][0]["caption"] for prediction in predictions] == list(scored.values())
    known = json.loads((project / paths.VOCABULARY).read_text())["no_repeat_ngram"]  # what `auto` became
    assert known > 0
    assert f"score.no_repeat_ngram</dt><dd>{known}<" in (project / paths.REPORT).read_text()
    assert f" no_repeat_ngram {known}," in (project / paths.MODEL_CARD).read_text()

    (project / "elsewhere").mkdir()
    (project / paths.MODEL).rename(project / "elsewhere" / "model.safetensors")
    captioner = Captioner.load(project / "elsewhere" / "model.safetensors", device="cpu")
    assert captioner(project / images[0]) == scored["012.png"]
    assert captioner((project / images[0]).read_bytes()) == scored["012.png"]


def test_predict_and_extract_give_the_same_row(project):
    from pipeline.device import single_threaded
    from pipeline.encoders.images import decode_image
    from pipeline.features.feature_file import FeatureFile

    run_stages(project, *STAGES)
    captioner = Captioner.load(project / paths.MODEL, device="cpu")
    cache = FeatureFile.open(project / paths.FEATURES)
    with single_threaded():
        image = decode_image((project / "data/tiny/images/005.png").read_bytes())
        row = captioner.encoder.encode(np.stack([preprocess_image(image, captioner.spec.preprocessing)]))
    assert row.tobytes() == cache.load(["005.png"]).tobytes()


def test_a_model_of_other_features_is_refused_with_both_values(project):
    run_stages(project, *STAGES)
    set_param(project, "encoder.grid", 2)
    run_stages(project, "extract")
    code, _, stderr = run_command("score", cwd=project)
    assert code == 4
    assert "not the features that the model was trained on: grid: 3 (model), 2 (features); run `dvc repro`" in stderr


def test_images_beside_the_captions_are_found_with_a_warning(project):
    set_param(project, "data.images", "data/nowhere")
    stderr = run_stages(project, "prepare")["prepare"]
    assert "warning: the images are not in data/nowhere but in data/tiny/images" in stderr


def test_missing_images_are_an_error_that_names_the_folders_searched(project, tmp_path):
    import shutil

    shutil.rmtree(project / "data/tiny/images")
    code, _, stderr = run_command("prepare", cwd=project)
    assert code == 3
    assert "holds none of the 18 images" in stderr
    assert "set params.data.images" in stderr


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("train", "data/interim/features.h5: no such file; run `dvc repro extract` first"),
        ("vocab", "data/interim/captions.csv: cannot be read"),
        ("score", "data/interim/features.h5: no such file"),
    ],
)
def test_a_stage_without_its_inputs_names_them(project, stage, words):
    code, _, stderr = run_command(stage, cwd=project)
    assert code == 3
    assert words in stderr
