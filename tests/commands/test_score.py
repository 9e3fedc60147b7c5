"""`captioner score FILE`: scores of captions from any source, without a model."""

import csv
import json
import unicodedata

import pytest
from support import run_command

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
CAPTIONS = [
    {"image_id": 1, "caption": "A brown dog is running"},
    {"image_id": 2, "caption": "two men play soccer in a field."},
    {"image_id": 3, "caption": "a child in a red coat is"},
]
FEW_IMAGES = "warning: {} images: the intervals and p-values of so few are too small\n"
SCORES = {"bleu_1": 72.9213, "bleu_4": 62.9483, "cider_d": 390.8887, "rouge_l": 70.9702}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "ours.json").write_text(json.dumps(CAPTIONS))
    return tmp_path


def score(folder, *arguments):
    return run_command("score", "ours.json", "--references", "references.json", *arguments, cwd=folder)


def test_the_known_case_is_scored_as_in_coco_caption(folder):
    code, out, err = score(folder, "--json")
    assert (code, err) == (0, FEW_IMAGES.format(3))
    found = json.loads(out)
    assert {name: found[name] for name in SCORES} == SCORES
    assert found["ends_in_function_word"] == pytest.approx(1 / 3, abs=1e-4)
    low, high = found["intervals"]["bleu_4"]
    assert low < found["bleu_4"] < high


def test_a_table_shows_intervals_and_diversity(folder):
    code, out, _ = score(folder)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "3 captions, 6 references"
    bleu = next(line for line in lines if line.startswith("BLEU-4"))
    assert bleu.split()[1] == "62.9"
    assert " to " in bleu
    assert any(line.startswith("captions that end in a function word") and "33.3%" in line for line in lines)
    assert lines[-1].startswith("BLEU: nrefs:var|case:mixed")


def test_scores_of_each_image_are_written_where_asked(folder):
    assert score(folder, "--per-image", "out/each.csv")[0] == 0
    with (folder / "out" / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["1", "2", "3"]
    assert sum(float(row["cider_d"]) for row in rows) / 3 == pytest.approx(390.8887, abs=1e-3)
    code, out, _ = run_command("score", "out/each.csv", "--json", cwd=folder)  # it holds its references
    assert code == 0
    assert json.loads(out)["cider_d"] == SCORES["cider_d"]


def test_captions_for_some_images_are_scored_only_on_request(folder):
    (folder / "ours.json").write_text(json.dumps(CAPTIONS[:2]))
    code, out, err = score(folder)
    assert (code, out) == (3, "")
    assert "error: ours.json: no caption for 1 of the 3 images in references.json: 3" in err
    code, out, err = score(folder, "--subset", "--json")
    assert code == 0
    assert err == "warning: 1 image without a caption is not in these scores\n" + FEW_IMAGES.format(2)
    assert json.loads(out)["images"] == 2


def test_a_file_without_references_and_options_without_a_file_are_wrong_usage(folder):
    code, _, err = run_command("score", "ours.json", cwd=folder)
    assert code == 2
    assert err == "error: ours.json: holds no references; name their file with --references\n"
    code, out, err = run_command("score", "ours.json", "--references", "ours.json", cwd=folder)
    assert (code, out) == (2, "")
    assert err.startswith("error: --references ours.json: the file of the captions, which holds no references beside")
    code, _, err = run_command("score", "--references", "references.json", cwd=folder)
    assert code == 2
    assert "captioner score FILE --references REFERENCES" in err
    assert run_command("score", "--seed", "3", cwd=folder)[::2] == (2, err)


def test_a_missing_file_ends_with_three(folder):
    code, _, err = run_command("score", "none.json", "--references", "references.json", cwd=folder)
    assert code == 3
    assert err == "error: none.json: cannot be read: No such file or directory\n"


def test_meteor_without_java_is_an_error_that_names_it(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, err = score(folder, "--meteor")
    assert (code, out) == (2, "")
    assert err.startswith("error: METEOR needs Java, and there is no `java` on the PATH")


def test_empty_captions_are_a_warning(folder):
    captions = [{"image_id": image, "caption": text} for image, text in ((1, "a brown dog"), (2, ""), (3, " "))]
    (folder / "ours.json").write_text(json.dumps(captions))
    code, _, err = score(folder)
    assert (code, err) == (0, "warning: 2 of 3 captions have no words\n" + FEW_IMAGES.format(3))


def test_letters_that_words_drop_are_a_warning(folder):
    (folder / "references.json").write_text(json.dumps({"1": ["\U0001e900\U0001e901"], "2": ["\U0001e902"]}))
    (folder / "ours.json").write_text(json.dumps({"1": "\U0001e900\U0001e901", "2": "\U0001e902"}))
    code, _, err = score(folder)
    assert code == 0
    letters = "letters or vowel signs that the word tokenizer drops"
    warning = f"warning: 100% of the references hold {letters}; add --unit character"
    few = FEW_IMAGES.format(2)
    assert err == f"{warning}\nwarning: 2 of 2 captions have no words\n{few}"
    assert score(folder, "--unit", "character")[2] == few


def test_one_image_has_no_interval_and_a_cider_of_zero_by_definition(folder):
    (folder / "ours.json").write_text(json.dumps(CAPTIONS[:1]))
    code, out, err = score(folder, "--subset")
    assert code == 0
    assert "warning: one image: CIDEr-D is 0 by definition" in err
    assert [line.split() for line in out.splitlines() if line.startswith("CIDEr-D")] == [["CIDEr-D", "0.0", "none"]]
    _, out, _ = score(folder, "--subset", "--json")
    assert json.loads(out)["intervals"] == {}


def test_captions_without_spaces_need_a_choice_of_unit(folder):
    (folder / "references.json").write_text(json.dumps({"1": ["一只狗在草地上跑"], "2": ["两个人在踢足球"]}))
    (folder / "ours.json").write_text(json.dumps({"1": "一只狗在草地上", "2": "两个人在田里踢足球"}))
    code, out, err = score(folder)
    assert (code, out) == (2, "")
    assert err.startswith("error: 100% of the references are in a script without spaces between words")
    code, out, _ = score(folder, "--unit", "character", "--json")
    assert code == 0
    assert json.loads(out)["bleu_4"] > 50
    code, _, err = run_command("compare", "ours.json", "ours.json", "--references", "references.json", cwd=folder)
    assert code == 2
    assert "add --unit character" in err
    compare = ("compare", "ours.json", "ours.json", "--references", "references.json", "--unit", "character", "--json")
    code, out, _ = run_command(*compare, cwd=folder)
    assert json.loads(out)["first"]["bleu_4"] > 50


def test_words_are_noted_where_the_model_of_the_project_generates_characters(folder):
    note = "note: scored in words, unlike metrics/scores.json: add --unit character (params.vocab.unit)\n"
    compare = ("compare", "ours.json", "ours.json", "--references", "references.json")
    for unit in ("word", "character"):
        (folder / "params.yaml").write_text(f"vocab: {{unit: {unit}}}\n")
        noted = note if unit == "character" else ""
        assert score(folder)[2] == run_command(*compare, cwd=folder)[2] == noted + FEW_IMAGES.format(3)
    assert score(folder, "--unit", "word")[2] == score(folder, "--unit", "character")[2] == FEW_IMAGES.format(3)


def test_what_the_user_should_know_about_the_match_is_printed(folder):
    (folder / "ours.json").write_text(json.dumps([{**one, "image_id": f"00{one['image_id']}"} for one in CAPTIONS]))
    code, _, err = score(folder)
    assert (code, err) == (0, "note: 3 images are matched by number, such as 001 with 1\n" + FEW_IMAGES.format(3))


def test_accents_match_in_any_unicode_form(folder):
    names = {form: unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFC", "NFD")}
    texts = {form: unicodedata.normalize(form, "a d\u00f3g on th\u00e9 gr\u00e4ss") for form in ("NFC", "NFD")}
    for ours, theirs in (("NFC", "NFD"), ("NFD", "NFC")):
        (folder / "ours.json").write_text(json.dumps({names[ours]: texts[ours], "b.jpg": "a cat"}))
        (folder / "references.json").write_text(json.dumps({names[theirs]: [texts[theirs]], "b.jpg": ["a cat"]}))
        code, out, err = score(folder, "--json")
        assert (code, err) == (0, FEW_IMAGES.format(2))
        assert (json.loads(out)["images"], json.loads(out)["bleu_4"]) == (2, 100.0)


def test_the_scores_of_each_image_do_not_replace_another_file(folder):
    before = (folder / "references.json").read_bytes()
    code, out, err = score(folder, "--per-image", "references.json")
    assert (code, out) == (2, "")
    assert "--per-image references.json: exists and is not a table of this command" in err
    assert (folder / "references.json").read_bytes() == before
    assert score(folder, "--per-image", "each.csv")[0] == 0
    assert score(folder, "--per-image", ".")[::2] == (2, "error: --per-image .: is a folder; name a file\n")
    assert score(folder, "--per-image", "each.csv")[0] == 0  # a table of this command is replaced
