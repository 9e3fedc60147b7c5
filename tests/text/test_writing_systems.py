"""Captions that the word tokenizer does not suit."""

import pytest

from pipeline.text.writing_systems import share_with_dropped_letters, share_without_spaces

DROPPED = [
    "\u0ca8\u0cbe\u0caf\u0cbf",  # Kannada, with vowel signs
    "\u0db6\u0dbd\u0dca\u0dbd\u0dcf",  # Sinhala
    "a \U0001d41d\U0001d428\U0001d420 runs",  # mathematical letters
    "\U00020bb7\u91ce a dog",
    "\U0001e900\U0001e901",  # Adlam
]
KEPT = [
    "a dog",
    "un ni\u00f1o",
    "\u0915\u0941\u0924\u094d\u0924\u093e",  # Hindi, with vowel signs
    "\u0643\u064e\u0644\u0628",  # Arabic, with a vowel mark
    "\u0130stanbul",
    "a heart \u2764\ufe0f",  # U+FE0F chooses the color, and is no letter
    "\U0001f469\U0001f3fd a woman",
]


@pytest.mark.parametrize("caption", DROPPED)
def test_letters_that_words_drop_are_found(caption):
    assert share_with_dropped_letters([caption]) == 1.0


@pytest.mark.parametrize("caption", KEPT)
def test_other_captions_keep_all_letters(caption):
    assert share_with_dropped_letters([caption]) == 0.0


def test_the_share_is_of_all_captions():
    assert share_with_dropped_letters(["a dog", "a cat", "a cow", DROPPED[0]]) == 0.25
    assert share_with_dropped_letters([]) == 0.0


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


def test_words_that_are_separated_all_the_same_are_words():
    segmented = "\u4e00\u53ea \u72d7 \u5728 \u96ea\u5730 \u91cc"
    phrases = "\u4e00\u53ea\u72d7\u5728\u96ea\u5730\u91cc \u53e6\u4e00\u53ea\u72d7\u5728\u8dd1"
    with_digit = "\u56fe\u4e2d\u6709 2 \u4e2a\u7537\u4eba\u5728\u8857\u4e0a"
    assert [share_without_spaces([text]) for text in (segmented, phrases, with_digit)] == [0.0, 1.0, 1.0]
