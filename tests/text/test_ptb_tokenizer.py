"""The PTB tokenizer against the output of the Stanford tokenizer, which `make_tokenizer_fixture.py` records."""

import csv
import hashlib
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import ptb_tokenizer
from pipeline.text.ptb_tokenizer import NAME, tokenize

FIXTURE = json.loads((Path(__file__).parent / "tokenizer_fixture.json").read_text(encoding="utf-8"))
BLOCK = 1000
# Repetitions that could make a rule backtrack without end.
ENDLESS = ["a", "1", "\u00ad", "\u0301", "'", "a.", "a-", "a@", "<a ", "<!a", "1 ", "&eacute;", "www.", ":-"]
ANY_CHARACTER = st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB5 .'-&</@\u2019\u00ad")


def digests(captions: list[str]) -> list[str]:
    lines = [" ".join(tokenize(caption)) + "\n" for caption in captions]
    blocks = ("".join(lines[start : start + BLOCK]) for start in range(0, len(lines), BLOCK))
    return [hashlib.sha256(block.encode()).hexdigest() for block in blocks]


def flickr8k(shared: Path) -> list[str]:
    path = shared / "data" / "flickr8k-captions" / "captions.txt"
    if not path.is_file():
        pytest.skip(f"needs the captions of Flickr8k in {path.parent}, which are not part of the project")
    with path.open(newline="", encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def test_pairs_of_the_fixture_are_tokenized_like_the_reference():
    assert len(FIXTURE["pairs"]) > 500
    ours = [[text, tokenize(text)] for text, _ in FIXTURE["pairs"]]
    assert ours == FIXTURE["pairs"]


def test_captions_of_flickr8k_are_tokenized_like_the_reference(shared: Path):
    captions = flickr8k(shared)
    assert len(captions) == 40455
    assert digests(captions) == FIXTURE["digests"]["flickr8k"]


def test_captions_of_coco_mini_are_tokenized_like_the_reference(shared: Path):
    files = sorted((shared / "data" / "coco-mini" / "annotations").glob("captions_*2017.json"))
    if not files:
        pytest.skip("needs the annotations of coco-mini, which are not part of the project")
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    captions = [annotation["caption"] for content in contents for annotation in content["annotations"]]
    assert digests(captions) == FIXTURE["digests"]["coco-mini"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog can't swim; it's the boys' turn.", "a dog ca n't swim it 's the boys turn"),
        ("they're gonna do what they cannot", "they 're gon na do what they can not"),
        ("Mr. Smith arrives at 5 p.m.", "mr. smith arrives at 5 p.m."),
        ("a snow-covered T-shirt and/or hat", "a snow-covered t-shirt and/or hat"),
        ('a sign says "STOP" -- twice ...', "a sign says stop twice"),
        ("50% of 1,000 at $3.50", "50 % of 1,000 at $ 3.50"),
        ("R&amp;D at http://a.org/x.", "r&d at http://a.org/x"),
    ],
)
def test_penn_treebank_conventions(text: str, tokens: str):
    assert tokenize(text) == tokens.split(" ")


def test_brackets_keep_their_lower_case_names():
    assert tokenize("a (small) [dog]") == ["a", "-lrb-", "small", "-rrb-", "-lsb-", "dog", "-rsb-"]


def test_a_mixed_number_is_one_token_with_a_no_break_space():
    assert tokenize("1 1/2 dogs") == ["1\u00a01/2", "dogs"]


def test_a_line_break_inside_a_caption_is_a_space():
    assert tokenize("a dog\nruns") == tokenize("a dog runs")


@pytest.mark.parametrize("text", ["", " ", "\n", ".", " , . ; ", "''", "\U0001f600"])
def test_punctuation_alone_gives_no_tokens(text: str):
    assert tokenize(text) == []


def test_an_emoji_outside_the_basic_plane_separates_words():
    assert tokenize("a dog\U0001f600runs") == ["a", "dog", "runs"]


@given(st.text(alphabet=ANY_CHARACTER, max_size=40))
def test_tokens_are_not_empty_and_hold_no_plain_space(text: str):
    assert all(token and " " not in token and "\n" not in token for token in tokenize(text))


@pytest.mark.parametrize("unit", ENDLESS)
def test_long_captions_take_linear_time(unit: str):
    start = time.process_time()
    tokenize(unit * (4000 // len(unit)) + "\u20ac")
    assert time.process_time() - start < 5


def test_the_name_stored_in_model_files_is_stable():
    assert NAME == "ptb"


@pytest.mark.parametrize("end", ["", ".", " .", ". ", "  . "])
@pytest.mark.parametrize("word", ["dog", "a", "no", "etc", "Mr", "St", "cannot", "Gonna", "I", "U", "pm", "Jr", "vs"])
def test_the_fast_path_gives_the_tokens_of_the_rules(monkeypatch, word, end):
    texts = [f"A dog, {word}{end}", f"{word} {word}{end}", f"{word}{end}", f"{word}; \u00a0dog"]
    tokens = [tokenize(text) for text in texts]
    monkeypatch.setattr(ptb_tokenizer, "_PLAIN", re.compile("(?!)"))
    assert tokens == [tokenize(text) for text in texts]
