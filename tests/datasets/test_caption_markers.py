"""Start and end markers around captions."""

import pytest

from pipeline.datasets.caption_markers import find_markers


@pytest.mark.parametrize(
    ("start", "end"), [("startseq", "endseq"), ("<start>", "<end>"), ("<S>", "</S>"), ("[CLS]", "[SEP]")]
)
def test_markers_around_every_caption_are_removed(start, end):
    captions = [f"{start} a dog . {end}", f" {start} a cat {end}\n"]
    markers = find_markers(captions)
    assert [markers.remove(caption) for caption in captions] == ["a dog .", "a cat"]
    assert markers.note == f"every caption starts with {start!r} and ends with {end!r}; both are removed"


@pytest.mark.parametrize("other", ["a cat", "startseq a cat", "<s> a cat </s>", "startseq endseq", ""])
def test_markers_around_some_captions_are_kept(other):
    assert find_markers(["startseq a dog endseq", other]) is None


def test_words_that_every_caption_begins_with_are_kept():
    assert find_markers(["a photo of a dog .", "a photo of a cat ."]) is None
