"""The character tokenizer."""

import pytest

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer, ptb_tokenizer
from pipeline.text.tokenizers import get_tokenizer, join_tokens
from pipeline.text.vocabulary import Vocabulary


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
        ("\u1112\u1161\u11ab", ["\ud55c"]),  # Korean, decomposed
        ("cafe\u0301", ["c", "a", "f", "\u00e9"]),
        ("dog \u203c\ufe0f cat", ["d", "o", "g", " ", "c", "a", "t"]),  # marks of dropped punctuation
        ("\u72d7#\ufe0f\u20e3\u8dd1", ["\u72d7", "\u8dd1"]),
        ("a\u200d b", ["a\u200d", " ", "b"]),
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
