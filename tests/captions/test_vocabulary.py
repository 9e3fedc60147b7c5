"""The vocabulary: which words, in which order."""

import pytest

from pipeline.captions.vocabulary import SPECIAL, Vocabulary
from pipeline.errors import ArtefactError


def test_words_are_in_the_order_of_count_then_letters():
    built = Vocabulary.build([["b", "a", "c"], ["c", "b", "x"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL, "b", "c", "a", "x")


def test_rare_words_become_unknown_and_are_counted():
    built = Vocabulary.build([["a", "a", "rare"]], min_count=2, tokenizer="ptb")
    assert built.encode([["a", "rare"]]) == [[1, 4, 3, 2]]
    assert built.counts[3] == 1
    assert built.coverage([["a", "rare"]]) == 0.5


def test_a_caption_that_says_the_name_of_a_special_token_cannot_forge_one():
    built = Vocabulary.build([["<eos>", "a"]], min_count=1, tokenizer="ptb")
    assert built.tokens == (*SPECIAL, "a")


def test_it_survives_its_file():
    built = Vocabulary.build([["a", "b"]], min_count=1, tokenizer="ptb")
    assert Vocabulary.from_json(built.to_json(), "vocab.json") == built
    assert built.decode([4, 5]) == "a b"


def test_another_file_is_refused_by_name():
    with pytest.raises(ArtefactError, match=r"vocab.json: not a vocabulary"):
        Vocabulary.from_json({"words": []}, "vocab.json")
