"""The character tokenizer."""

import pytest

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer, ptb_tokenizer
from pipeline.text.tokenizers import get_tokenizer, join_tokens
from pipeline.text.vocabulary import Vocabulary
from pipeline.text.writing_systems import share_without_spaces


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\u4e00\u53ea\u72d7\u3002", ["\u4e00", "\u53ea", "\u72d7"]),
        ("\u4e00 \u53ea", ["\u4e00", "\u53ea"]),
        ("Big dog!", ["b", "i", "g", " ", "d", "o", "g"]),
        ("\u4e00 dog", ["\u4e00", "d", "o", "g"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19"]),  # Thai: a vowel mark belongs to its consonant
        (
            "\U0001f468\u200d\U0001f469 \U0001f44b\U0001f3fd",
            ["\U0001f468\u200d\U0001f469", " ", "\U0001f44b\U0001f3fd"],
        ),
        (" . ", []),
        ("", []),
    ],
)
def test_a_token_is_one_visible_character(text, tokens):
    assert character_tokenizer.tokenize(text) == tokens


def test_a_character_vocabulary_decodes_what_it_encodes():
    texts = ["\u4e00\u53ea\u72d7", "a dog"]
    built = Vocabulary.build(map(character_tokenizer.tokenize, texts), min_count=1, tokenizer=character_tokenizer.NAME)
    for text in texts:
        (numbers,) = built.encode([character_tokenizer.tokenize(text)])
        assert built.decode(numbers[1:-1]) == text
        assert built.for_metrics(text) == join_tokens(character_tokenizer.tokenize(text))
    assert built.for_metrics("a dog") == "a d o g"


def test_tokenizers_by_name():
    assert get_tokenizer(character_tokenizer.NAME, "vocab.json") is character_tokenizer.tokenize
    assert get_tokenizer(ptb_tokenizer.NAME, "vocab.json") is ptb_tokenizer.tokenize
    with pytest.raises(ArtefactError, match=r"vocab.json: made with the unknown tokenizer 'words-2'"):
        get_tokenizer("words-2", "vocab.json")


def test_writing_systems_without_spaces_are_recognized():
    without = [
        "\u4e00\u53ea\u72d7\u5728\u8dd1",
        "\u72ac\u304c\u8d70\u308b",
        "\u0e2a\u0e38\u0e19\u0e31\u0e02\u0e27\u0e34\u0e48\u0e07",
    ]
    with_spaces = [
        "a dog",
        "\u0441\u043e\u0431\u0430\u043a\u0430 \u0431\u0435\u0436\u0438\u0442",
        "\uac1c\uac00 \ub2ec\ub9b0\ub2e4",
        "\u0643\u0644\u0628 \u064a\u062c\u0631\u064a",
        "a sign: \u4e00\u53ea",
    ]
    assert [share_without_spaces([text]) for text in without] == [1.0] * 3
    assert [share_without_spaces([text]) for text in with_spaces] == [0.0] * 5
