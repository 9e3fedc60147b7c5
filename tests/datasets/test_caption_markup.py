"""Markup in captions: start and end markers, and HTML."""

import pytest

from pipeline.datasets.caption_markup import clean_captions


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("startseq", "endseq"),
        ("<start>", "<end>"),
        ("<S>", "</S>"),
        ("[CLS]", "[SEP]"),
        ("bos", "eos"),
        ("ssss", "eeee"),
    ],
)
def test_markers_around_every_caption_are_removed(start, end):
    found, notes = clean_captions([f"{start} a dog . {end}", f" {start} a cat {end}\n"])
    assert found == ["a dog .", "a cat"]
    assert notes == [f"every caption starts with {start!r} and ends with {end!r}; both are removed"]


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (["<s>a dog</s>", "<s>a cat</s>"], "starts with '<s>' and ends with '</s>'; both are"),
        (
            ["<|startoftext|>a dog<|endoftext|><|endoftext|>", "<|startoftext|>a cat<|endoftext|>"],
            "starts with '<|startoftext|>' and ends with '<|endoftext|>'; both are",
        ),
        (
            ["<start> a dog <end> <pad> <pad>", "<start> a cat <end><pad>"],
            "starts with '<start>' and ends with '<end>'; both are",
        ),
        (["a dog </s>", "a cat</s>", ""], "ends with '</s>'; it is"),
        (["a dog endseq", "a cat endseq"], "ends with 'endseq'; it is"),
        (["[CLS]a dog", "[CLS] a cat"], "starts with '[CLS]'; it is"),
        (["<pad><pad>a dog", "<pad> a cat"], "starts with '<pad>'; it is"),
    ],
)
def test_markers_may_lack_spaces_or_a_partner_and_have_padding(captions, words):
    found, notes = clean_captions(captions)
    assert found == ["a dog", "a cat", ""][: len(captions)]
    assert notes == [f"every caption {words} removed"]


@pytest.mark.parametrize(
    ("other", "count"), [("a cat", 1), ("startseq a cat", 2), ("<s> a cat </s>", 2), ("startseq endseq", 1)]
)
def test_markers_that_not_every_caption_has_are_kept_and_counted(other, count):
    captions = [other, "startseq a dog endseq", "a dog"]
    found, [note] = clean_captions(captions)
    assert found == captions
    assert note.startswith(f"{count} caption")
    assert "start or end markers that not all have" in note


def test_each_end_is_judged_by_itself():
    found, notes = clean_captions(["startseq a dog endseq", "startseq a long cat"])
    assert found == ["a dog endseq", "a long cat"]
    assert notes[0] == "every caption starts with 'startseq'; it is removed"
    assert notes[1].startswith("1 caption has start or end markers that not all have")


def test_words_that_are_no_markers_are_kept():
    for captions in (["a photo of a dog .", "a photo of a cat ."], ["bos taurus"], ["a canon eos"], ["an endseq."], []):
        assert clean_captions(captions) == (captions, [])


def test_html_is_kept_and_counted():
    captions = ["a dog<br/>and a cat", "a cat < a dog", "salt &amp; pepper"]
    note = "2 captions hold HTML, such as <br/>, which is kept as text; remove it from the captions file"
    assert clean_captions(captions) == (captions, [note])


def test_a_caption_of_markers_only_becomes_empty():
    found, _ = clean_captions(["startseq a dog endseq", "startseq endseq", "startseq . endseq"])
    assert found == ["a dog", "", "."]
