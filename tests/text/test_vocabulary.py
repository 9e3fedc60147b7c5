"""The vocabulary: which words, in which order."""

import pytest

from pipeline.errors import ArtefactError
from pipeline.text.vocabulary import SPECIAL_TOKENS, Vocabulary


def test_words_are_in_the_order_of_count_then_letters():
    built = Vocabulary.build([["b", "a", "c"], ["c", "b", "x"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL_TOKENS, "b", "c", "a", "x")


def test_rare_words_become_unknown_and_are_counted():
    built = Vocabulary.build([["a", "a", "rare"]], min_count=2, tokenizer="ptb")
    assert built.encode([["a", "rare"]]) == [[1, 4, 3, 2]]
    assert built.counts[3] == 1
    assert built.coverage([["a", "rare"]]) == 0.5


def test_a_caption_that_says_the_name_of_a_special_token_cannot_forge_one():
    built = Vocabulary.build([["<eos>", "a"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL_TOKENS, "a")
    assert built.encode([["a", "<eos>", "<pad>", "<bos>", "<unk>", "a"]]) == [[1, 4, 3, 3, 3, 3, 4, 2]]
    assert built.coverage([["a", "<eos>"]]) == 0.5


REPEATS_ONE = ["a", "dog", "and", "a", "cat"]
REPEATS_TWO = ["a", "dog", "and", "a", "dog"]
REPEATS_FOUR = ["one", "two", "three", "four"] * 2


@pytest.mark.parametrize(
    ("repeating", "of", "expected"),
    [(REPEATS_ONE, 20, 2), (REPEATS_TWO, 1, 2), (REPEATS_TWO, 2, 3), (REPEATS_FOUR, 1, 2), (REPEATS_FOUR, 2, 0)],
)
def test_what_one_caption_in_twenty_repeats_is_seldom(repeating, of, expected):
    captions = [repeating] * of + [["a", "dog", "runs"]] * (20 - of)
    assert Vocabulary.build(captions, min_count=1, tokenizer="ptb").no_repeat_ngram == expected


def test_without_captions_nothing_is_known_of_repetition():
    assert Vocabulary.build([], min_count=1, tokenizer="ptb").no_repeat_ngram == 0


@pytest.mark.parametrize("wrong", [None, "2", [2], -1, 2.5, True])
def test_a_wrong_length_of_repetition_is_refused(wrong):
    content = Vocabulary.build([REPEATS_ONE], min_count=1, tokenizer="ptb").to_json() | {"no_repeat_ngram": wrong}
    with pytest.raises(ArtefactError, match=r"vocab.json: not a vocabulary"):
        Vocabulary.from_json(content, "vocab.json")


def test_it_survives_its_file():
    built = Vocabulary.build([["a", "b"]], min_count=1, tokenizer="ptb")
    assert built.no_repeat_ngram == 2
    assert Vocabulary.from_json(built.to_json(), "vocab.json") == built
    assert built.decode([4, 5]) == "a b"


def test_another_file_is_refused_by_name():
    with pytest.raises(ArtefactError, match=r"vocab.json: not a vocabulary"):
        Vocabulary.from_json({"words": []}, "vocab.json")
