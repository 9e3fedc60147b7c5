"""Start and end markers around captions."""

import pytest

from pipeline.datasets.caption_markers import strip_markers
from pipeline.datasets.entries import CaptionEntry


def entries(*captions):
    return [CaptionEntry("a.jpg", caption, None, "f", 1) for caption in captions]


@pytest.mark.parametrize(
    ("start", "end"), [("startseq", "endseq"), ("<start>", "<end>"), ("<S>", "</S>"), ("[CLS]", "[SEP]")]
)
def test_markers_around_every_caption_are_removed(start, end):
    found, note = strip_markers(entries(f"{start} a dog . {end}", f"{start} a cat {end}"))
    assert [entry.caption for entry in found] == ["a dog .", "a cat"]
    assert note == f"every caption stands between {start!r} and {end!r}, which are removed"


@pytest.mark.parametrize("other", ["a cat", "startseq a cat", "<s> a cat </s>", "startseq endseq"])
def test_markers_around_some_captions_are_kept(other):
    captions = entries("startseq a dog endseq", other)
    assert strip_markers(captions) == (captions, None)


def test_words_that_every_caption_begins_with_are_kept():
    captions = entries("a photo of a dog .", "a photo of a cat .")
    assert strip_markers(captions) == (captions, None)
