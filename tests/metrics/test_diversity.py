import pytest

from pipeline.metrics.diversity import TITLES, diversity, formatted


def test_one_sentence_for_every_image_shows_in_the_statistics():
    found = diversity(["a man is standing"] * 9 + ["a man"], vocabulary_size=100)
    assert found["distinct_captions"] == 0.2
    assert found["most_common_caption"] == 0.9
    assert found["distinct_words"] == 4
    assert found["vocabulary_used"] == 0.04


def test_unfinished_empty_and_stuttering_captions_are_counted():
    found = diversity(["a dog on a", "a dog dog runs", "", "a dog runs to the dog"], vocabulary_size=None)
    assert found["ends_in_function_word"] == 0.25
    assert found["repeated_word"] == 0.25
    assert found["empty_captions"] == 0.25
    assert found["mean_length"] == 3.5
    assert "vocabulary_used" not in found


@pytest.mark.parametrize(
    ("caption", "share"),
    [
        ("a man with a red shirt and a red shirt", 1.0),
        ("a boy and a girl in a field", 0.0),
        ("on top of on top of", 1.0),
        ("it is on the left of the cat and on the left", 1.0),
        ("in the and in the and", 0.0),
    ],
)
def test_a_repeated_phrase_is_found_unless_all_its_words_are_function_words(caption, share):
    assert diversity([caption], None)["repeated_phrase"] == share


def test_every_statistic_has_a_title_and_a_form():
    found = diversity(["a dog", "a cat"], vocabulary_size=6)
    assert set(TITLES) == set(found)
    names = ("distinct_words", "mean_length", "vocabulary_used")
    assert [formatted(name, found[name]) for name in names] == ["3", "2.0", "50.0%"]
