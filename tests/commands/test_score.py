"""`captioner score FILE`: anybody's captions, scored without a model."""

import csv
import json

import pytest
from conftest import run_command

REFERENCES = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": image, "caption": caption}
        for image, caption in (
            (1, "A dog runs on the grass."),
            (1, "The brown dog is running on the green grass."),
            (1, "A dog running outside on grass."),
            (2, "Two men play soccer on a wide field."),
            (2, "Two people are playing a game of soccer in a field."),
            (3, "A child in a red coat is standing in the snow."),
        )
    ],
}
RESULTS = [
    {"image_id": 1, "caption": "A brown dog is running"},
    {"image_id": 2, "caption": "two men play soccer in a field."},
    {"image_id": 3, "caption": "a child in a red coat is"},
]
SCORES = {"bleu_1": 72.9213, "bleu_4": 62.9483, "cider_d": 390.8887, "rouge_l": 70.9702}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "ours.json").write_text(json.dumps(RESULTS))
    return tmp_path


def score(folder, *arguments):
    return run_command("score", "ours.json", "--references", "references.json", *arguments, cwd=folder)


def test_the_known_case_is_scored_as_by_coco_caption(folder):
    code, out, said = score(folder, "--json")
    assert (code, said) == (0, "")
    found = json.loads(out)
    assert {name: found[name] for name in SCORES} == SCORES
    assert found["ends_in_function_word"] == pytest.approx(1 / 3, abs=1e-4)
    low, high = found["intervals"]["bleu_4"]
    assert low < found["bleu_4"] < high


def test_people_get_a_table_with_intervals_and_signs(folder):
    code, out, _ = score(folder)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "3 captions, 6 references"
    bleu = next(line for line in lines if line.startswith("BLEU-4"))
    assert bleu.split()[1] == "62.9"
    assert " to " in bleu
    assert any(line.startswith("captions ending in a function word") and "33.3%" in line for line in lines)
    assert lines[-1].startswith("BLEU: nrefs:var|case:mixed")


def test_scores_of_each_picture_are_written_where_asked(folder):
    assert score(folder, "--per-picture", "out/each.csv")[0] == 0
    with (folder / "out" / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["1", "2", "3"]
    assert sum(float(row["cider_d"]) for row in rows) / 3 == pytest.approx(390.8887, abs=1e-3)
    code, out, _ = run_command("score", "out/each.csv", "--json", cwd=folder)  # it holds its references
    assert code == 0
    assert json.loads(out)["cider_d"] == SCORES["cider_d"]


def test_a_captioner_that_leaves_pictures_out_is_not_scored_unless_asked(folder):
    (folder / "ours.json").write_text(json.dumps(RESULTS[:2]))
    code, out, said = score(folder)
    assert (code, out) == (3, "")
    assert "error: ours.json: no caption for 1 of the 3 pictures in references.json: 3" in said
    code, out, said = score(folder, "--subset", "--json")
    assert code == 0
    assert said == "warning: 1 pictures without a caption are not in these scores\n"
    assert json.loads(out)["pictures"] == 2


def test_a_file_without_references_and_options_without_a_file_are_wrong_usage(folder):
    code, _, said = run_command("score", "ours.json", cwd=folder)
    assert code == 2
    assert said == "error: ours.json: holds no references; name their file with --references\n"
    code, _, said = run_command("score", "--references", "references.json", cwd=folder)
    assert code == 2
    assert "captioner score FILE --references REFS" in said


def test_a_missing_file_ends_with_three(folder):
    code, _, said = run_command("score", "none.json", "--references", "references.json", cwd=folder)
    assert code == 3
    assert said == "error: none.json: cannot be read: No such file or directory\n"


def test_meteor_without_java_says_so_plainly(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, said = score(folder, "--meteor")
    assert (code, out) == (2, "")
    assert said.startswith("error: METEOR needs Java, and there is no `java` on the PATH")
