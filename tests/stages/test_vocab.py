"""vocab: which tokens the decoder will know, and how much of the other splits they cover."""

import csv
import json

from conftest import run_command, set_param, small_params

from pipeline.stages.vocab import build_vocabulary


def built(folder, rows, **vocab):
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    params = small_params(vocab=vocab, score={"neighbours": 0}).vocab
    found = build_vocabulary(params, captions=folder / "captions.csv", vocabulary_out=folder / "vocab.json")
    return found, json.loads((folder / "vocab.json").read_text(encoding="utf-8"))


ROWS = [
    ("a.jpg", "a dog runs", "train"),
    ("b.jpg", "a cat", "train"),
    ("c.jpg", "a dog sleeps here", "val"),
    ("d.jpg", "the cat", "test"),
]


def test_coverage_is_that_of_val_and_of_test(tmp_path):
    found, _ = built(tmp_path, ROWS)
    assert found.coverage == {"val": 0.5, "test": 0.5}
    found, _ = built(tmp_path, ROWS[:3])
    assert found.coverage == {"val": 0.5}


def test_only_train_captions_give_tokens(tmp_path):
    _, vocabulary = built(tmp_path, ROWS)
    assert vocabulary["tokens"][4:] == ["a", "cat", "dog", "runs"]
    _, vocabulary = built(tmp_path, ROWS, unit="character")
    assert set(vocabulary["tokens"][4:]) == set("a dogrunsct")
    assert vocabulary["tokenizer"] == "character"


def test_the_command_reports_both(project):
    set_param(project, "vocab.unit", "character")
    set_param(project, "score.neighbours", 0)
    assert run_command("prepare", cwd=project)[0] == 0
    said = run_command("vocab", cwd=project)[2]
    assert "tokens (characters), which cover 100.0% of val, 100.0% of test" in said
