import pytest
from scored_captions import REFERENCES

from pipeline.metrics.bleu import bleu_signature, bleu_statistics


def test_statistics_are_matches_ngrams_and_lengths():
    counts = bleu_statistics(["a dog runs fast now"], [["a dog runs", "the dog runs fast today"]])
    assert counts.tolist() == [[4, 3, 2, 0, 5, 4, 3, 2, 5, 5]]


def test_the_reference_length_is_the_closest_one_and_the_shorter_of_two_equally_close():
    counts = bleu_statistics(["a b c d"], [["a b c d e f g", "a b c d e", "a b c"]])
    assert counts[0, -1] == 3


@pytest.mark.parametrize(("references", "number"), [(REFERENCES, "var"), ([["a", "b"], ["c", "d"]], "2")])
def test_the_signature_states_that_sacrebleu_neither_tokenizes_nor_smooths(references, number):
    signature = bleu_signature(references)
    assert signature.startswith(f"nrefs:{number}|case:mixed|eff:no|tok:none|smooth:none|version:")
