import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES, every_case

from pipeline.metrics.bleu import bleu_from_statistics, bleu_statistics, corpus_bleu


def test_bleu_of_the_known_case():
    bleu, _ = corpus_bleu(HYPOTHESES, REFERENCES)
    assert bleu == pytest.approx([0.729213, 0.706057, 0.675038, 0.629483], abs=5e-7)


@every_case
def test_bleu_equals_pycocoevalcap(case):
    bleu, _ = corpus_bleu(case.hypotheses, case.references)
    assert bleu == pytest.approx(case.bleu, abs=1e-9)


@every_case
def test_bleu_of_each_picture_equals_pycocoevalcap(case):
    counts = bleu_statistics(case.hypotheses, case.references)
    assert bleu_from_statistics(counts)[:, 3] == pytest.approx(case.bleu_4, abs=1e-9)


@every_case
def test_summed_statistics_give_the_bleu_of_the_corpus(case):
    bleu, _ = corpus_bleu(case.hypotheses, case.references)
    counts = bleu_statistics(case.hypotheses, case.references)
    assert bleu_from_statistics(counts.sum(axis=0)).tolist() == bleu.tolist()


def test_statistics_are_matches_ngrams_and_lengths():
    counts = bleu_statistics(["a dog runs fast now"], [["a dog runs", "the dog runs fast today"]])
    assert counts.tolist() == [[4, 3, 2, 0, 5, 4, 3, 2, 5, 5]]


def test_the_reference_length_is_the_closest_one_and_the_shorter_of_two_equally_close():
    counts = bleu_statistics(["a b c d"], [["a b c d e f g", "a b c d e", "a b c"]])
    assert counts[0, -1] == 3


def test_missing_references_do_not_change_the_brevity_penalty():
    few = ["a dog runs on the grass"]
    many = ["two men play soccer", "two men play soccer now"]
    bleu, _ = corpus_bleu(["a dog runs on the", "two men play soccer"], [few, many])
    assert bleu[0] == pytest.approx(np.exp(1 - 10 / 9), abs=1e-6)


def test_more_tokens_than_the_reference_earn_no_brevity_bonus():
    bleu, _ = corpus_bleu(["a dog runs on the grass and barks"], [["a dog runs on the grass"]])
    assert bleu[0] == pytest.approx(6 / 8, abs=1e-6)


def test_statistics_may_have_any_leading_axes():
    counts = bleu_statistics(HYPOTHESES, REFERENCES)
    stacked = np.stack([[counts[0], counts[1]], [counts[2], counts.sum(axis=0)]])
    bleu = bleu_from_statistics(stacked)
    assert bleu.shape == (2, 2, 4)
    assert bleu[1, 1].tolist() == bleu_from_statistics(counts.sum(axis=0)).tolist()


def test_the_signature_says_that_sacrebleu_neither_tokenises_nor_smooths():
    _, signature = corpus_bleu(HYPOTHESES, REFERENCES)
    assert signature.startswith("nrefs:var|case:mixed|eff:no|tok:none|smooth:none|version:")


def test_statistics_with_another_number_of_columns_are_refused():
    with pytest.raises(ValueError, match=r"10 columns, got shape \(3, 9\)"):
        bleu_from_statistics(np.zeros((3, 9)))
