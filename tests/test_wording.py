"""Counts and lists of names in messages."""

import pytest

from pipeline.wording import counted, shown_names


@pytest.mark.parametrize(
    ("number", "nouns", "words"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2000, ("image",), "2,000 images"),
        (1, ("image is", "images are"), "1 image is"),
        (2, ("image is", "images are"), "2 images are"),
    ],
)
def test_a_noun_agrees_with_its_number(number, nouns, words):
    assert counted(number, *nouns) == words


def test_the_names_that_are_not_shown_are_counted():
    assert shown_names(["a", "b"]) == "a, b"
    assert shown_names([str(number) for number in range(2000)], 3) == "0, 1, 2 and 1,997 more"
