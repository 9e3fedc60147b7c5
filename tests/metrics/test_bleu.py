import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES, every_case

from pipeline.metrics.bleu import bleu_scores, bleu_signature, bleu_statistics


def corpus_bleu(hypotheses, references):
    return bleu_scores(bleu_statistics(hypotheses, references).sum(axis=0))


def test_bleu_of_the_known_case():
    assert corpus_bleu(HYPOTHESES, REFERENCES) == pytest.approx([0.729213, 0.706057, 0.675038, 0.629483], abs=5e-7)


@every_case
def test_corpus_bleu_equals_pycocoevalcap(case):
    assert corpus_bleu(case.hypotheses, case.references) == pytest.approx(case.bleu, abs=1e-9)


@every_case
def test_bleu_of_each_image_equals_pycocoevalcap(case):
    counts = bleu_statistics(case.hypotheses, case.references)
    assert bleu_scores(counts)[:, 3] == pytest.approx(case.bleu_4, abs=1e-9)


def test_statistics_are_matches_ngrams_and_lengths():
    counts = bleu_statistics(["a dog runs fast now"], [["a dog runs", "the dog runs fast today"]])
    assert counts.tolist() == [[4, 3, 2, 0, 5, 4, 3, 2, 5, 5]]


def test_the_reference_length_is_the_closest_one_and_the_shorter_of_two_equally_close():
    counts = bleu_statistics(["a b c d"], [["a b c d e f g", "a b c d e", "a b c"]])
    assert counts[0, -1] == 3


def test_images_may_have_different_numbers_of_references():
    few = ["a dog runs on the grass"]
    many = ["two men play soccer", "two men play soccer now"]
    bleu = corpus_bleu(["a dog runs on the", "two men play soccer"], [few, many])
    assert bleu[0] == pytest.approx(np.exp(1 - 10 / 9), abs=1e-6)


def test_more_tokens_than_the_reference_earn_no_brevity_bonus():
    bleu = corpus_bleu(["a dog runs on the grass and barks"], [["a dog runs on the grass"]])
    assert bleu[0] == pytest.approx(6 / 8, abs=1e-6)


def test_statistics_may_have_any_leading_axes():
    counts = bleu_statistics(HYPOTHESES, REFERENCES)
    stacked = np.stack([[counts[0], counts[1]], [counts[2], counts.sum(axis=0)]])
    bleu = bleu_scores(stacked)
    assert bleu.shape == (2, 2, 4)
    assert bleu[1, 1].tolist() == bleu_scores(counts.sum(axis=0)).tolist()


@pytest.mark.parametrize(("references", "number"), [(REFERENCES, "var"), ([["a", "b"], ["c", "d"]], "2")])
def test_the_signature_states_that_sacrebleu_neither_tokenizes_nor_smooths(references, number):
    signature = bleu_signature(references)
    assert signature.startswith(f"nrefs:{number}|case:mixed|eff:no|tok:none|smooth:none|version:")


def test_another_number_of_columns_is_refused():
    with pytest.raises(ValueError, match=r"10 columns, got shape \(3, 9\)"):
        bleu_scores(np.zeros((3, 9)))
