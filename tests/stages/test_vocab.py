"""Stage `vocab`."""

import csv
import json

import pytest
from support import run_stages, set_param, small_params

from pipeline.errors import ParamsError
from pipeline.stages.vocab import VocabFiles, vocab

CAPTIONS = [
    ("a.jpg", "a dog runs", "train"),
    ("b.jpg", "a cat", "train"),
    ("c.jpg", "a dog sleeps here", "val"),
    ("d.jpg", "the cat", "test"),
]
UNKNOWN_LETTERS = [("a.jpg", "\U0001e900\U0001e901", "train")]
"""Of which the word tokenizer keeps none."""


def build(folder, captions=CAPTIONS, **params):
    """The report of the stage and the content of vocab.json."""
    files = VocabFiles(folder / "captions.csv", folder / "vocab.json")
    with files.captions.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *captions])
    report = vocab(files, small_params(vocab=params, score={"rerank": {"neighbors": 0, "weight": 4.0}}))
    return report, json.loads(files.vocabulary.read_text(encoding="utf-8"))


def test_coverage_of_val_and_test(tmp_path):
    assert build(tmp_path)[0].coverage == {"val": 0.5, "test": 0.5}
    assert build(tmp_path, CAPTIONS[:3])[0].coverage == {"val": 0.5}


def test_the_tokens_are_those_of_the_train_captions(tmp_path):
    assert build(tmp_path)[1]["tokens"][4:] == ["a", "cat", "dog", "runs"]
    vocabulary = build(tmp_path, unit="character")[1]
    assert set(vocabulary["tokens"][4:]) == set("a dogrunsct")
    assert vocabulary["tokenizer"] == "character"


@pytest.mark.parametrize(
    ("captions", "min_count", "tokens"),
    [(CAPTIONS, 1000, "5 words"), (CAPTIONS[:1], 2, "3 words"), (UNKNOWN_LETTERS, 1, "0 words")],
)
def test_an_empty_vocabulary_is_refused(tmp_path, captions, min_count, tokens):
    message = (
        rf"params.vocab: the vocabulary is empty, because no word reaches min_count = {min_count} in the {tokens} of "
        "the training captions; lower min_count, or set unit to character"
    )
    with pytest.raises(ParamsError, match=message):
        build(tmp_path, captions, min_count=min_count)
    assert not (tmp_path / "vocab.json").exists()


def test_characters_drop_no_letters(tmp_path):
    assert build(tmp_path, UNKNOWN_LETTERS, unit="character")[0].share_with_dropped_letters == 0.0


def test_the_longest_caption_limits_the_length_up_to_sixty_words(tmp_path):
    report, vocabulary = build(tmp_path)
    assert (vocabulary["max_length"], report.cut) == (3, 0)
    report, vocabulary = build(tmp_path, [*CAPTIONS, ("e.jpg", "dog " * 70, "train")])
    assert (vocabulary["max_length"], report.cut, report.captions, report.longest) == (60, 1, 3, 70)
    report, vocabulary = build(tmp_path, max_length=2)
    assert (vocabulary["max_length"], report.cut) == (2, 1)


def test_vocab_train_and_score_count_the_captions_beyond_the_limit(project):
    set_param(project, "vocab.max_length", 4)
    messages = run_stages(project, "prepare", "extract", "vocab", "train", "score")
    assert (
        "warning: 12 of 24 training captions are longer than 4 words, the longest 6; train will cut them "
        "(params.vocab.max_length)" in messages["vocab"]
    )
    assert "train: 12 training captions were cut to 4 tokens (params.vocab.max_length)" in messages["train"]
    assert "warning: 3 of 6 references are longer than params.score.max_length (4 tokens); " in messages["score"]


def test_the_command_prints_unit_and_coverage(project):
    set_param(project, "vocab.unit", "character")
    set_param(project, "score.rerank", {"neighbors": 0})
    messages = run_stages(project, "prepare", "vocab")
    assert "tokens (characters), which cover 100.0% of val, 100.0% of test" in messages["vocab"]
