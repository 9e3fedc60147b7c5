"""The vocabulary."""

import pytest

from pipeline.errors import ArtefactError
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS


def test_tokens_are_ordered_by_count_then_alphabetically():
    built = Vocabulary.build([["b", "a", "c"], ["c", "b", "x"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL_TOKENS, "b", "c", "a", "x")


def test_rare_tokens_become_unknown_and_are_counted():
    built = Vocabulary.build([["a", "a", "rare"]], min_count=2, tokenizer="ptb")
    assert built.encode([["a", "rare"]]) == [[1, 4, 3, 2]]
    assert built.counts[3] == 1
    assert built.coverage([["a", "rare"]]) == 0.5


def test_the_name_of_a_special_token_in_a_caption_is_unknown():
    built = Vocabulary.build([["<eos>", "a"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL_TOKENS, "a")
    assert built.encode([["a", "<eos>", "<pad>", "<bos>", "<unk>", "a"]]) == [[1, 4, 3, 3, 3, 3, 4, 2]]
    assert built.coverage([["a", "<eos>"]]) == 0.5


REPEATS_ONE = ["a", "dog", "and", "a", "cat"]
REPEATS_TWO = ["a", "dog", "and", "a", "dog"]
REPEATS_FOUR = ["one", "two", "three", "four"] * 2


@pytest.mark.parametrize(
    ("repeating", "count", "expected"),
    [(REPEATS_ONE, 20, 2), (REPEATS_TWO, 1, 2), (REPEATS_TWO, 2, 3), (REPEATS_FOUR, 1, 2), (REPEATS_FOUR, 2, 0)],
)
def test_ngrams_that_one_caption_in_twenty_repeats_are_rarely_repeated(repeating, count, expected):
    captions = [repeating] * count + [["a", "dog", "runs"]] * (20 - count)
    assert Vocabulary.build(captions, min_count=1, tokenizer="ptb").no_repeat_ngram == expected


def test_without_captions_repetition_is_allowed():
    assert Vocabulary.build([], min_count=1, tokenizer="ptb").no_repeat_ngram == 0


@pytest.mark.parametrize("key", ["no_repeat_ngram", "max_length"])
@pytest.mark.parametrize("wrong", [None, "2", [2], -1, 2.5, True])
def test_an_invalid_number_is_refused(key, wrong):
    content = Vocabulary.build([REPEATS_ONE], min_count=1, tokenizer="ptb").to_json() | {key: wrong}
    with pytest.raises(ArtefactError, match=r"vocab.json: not a vocabulary"):
        Vocabulary.from_json(content, "vocab.json")


def test_json_round_trip():
    built = Vocabulary.build([["a", "b"]], min_count=1, tokenizer="ptb")
    assert built.no_repeat_ngram == 2
    assert Vocabulary.from_json(built.to_json(), "vocab.json") == built
    assert built.decode([4, 5]) == "a b"


def test_another_json_file_is_refused():
    with pytest.raises(ArtefactError, match=r"vocab.json: not a vocabulary"):
        Vocabulary.from_json({"words": []}, "vocab.json")
