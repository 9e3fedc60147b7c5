"""Our scores against the reference implementation, on random captions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_captions import every_case

from pipeline.metrics.bleu import bleu_scores, bleu_statistics
from pipeline.metrics.cider import CiderD
from pipeline.metrics.rouge import rouge_l

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap comes with pip install -e '.[dev]'")

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

REFERENCE_WORDS = ["a", "dog", "man", "runs", "on", "grass"]
captions = st.lists(st.sampled_from(REFERENCE_WORDS), max_size=12).map(" ".join)
guesses = st.one_of(
    captions,
    st.just(""),
    st.sampled_from([*REFERENCE_WORDS, "zebra"]),
    st.lists(st.sampled_from([*REFERENCE_WORDS, "zebra", "grazes"]), max_size=20).map(" ".join),
)
one_to_seven = st.lists(captions, min_size=1, max_size=7)
# pycocoevalcap's CIDEr stops with an error when no reference has any word.
images = st.lists(st.tuples(guesses, one_to_seven), min_size=1, max_size=6).filter(
    lambda drawn: any(any(references) for _, references in drawn)
)


def as_dictionaries(hypotheses, references):
    return dict(enumerate(references)), {index: [caption] for index, caption in enumerate(hypotheses)}


@given(images)
def test_bleu_equals_pycocoevalcap_for_the_set_and_each_image(drawn):
    hypotheses, references = map(list, zip(*drawn, strict=True))
    expected, of_each = Bleu(4).compute_score(*as_dictionaries(hypotheses, references), verbose=0)
    counts = bleu_statistics(hypotheses, references)
    np.testing.assert_allclose(bleu_scores(counts.sum(axis=0)), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bleu_scores(counts), np.transpose(of_each), rtol=0, atol=1e-9)


@given(images)
def test_rouge_equals_pycocoevalcap(drawn):
    hypotheses, references = map(list, zip(*drawn, strict=True))
    _, expected = Rouge().compute_score(*as_dictionaries(hypotheses, references))
    np.testing.assert_allclose(rouge_l(hypotheses, references), expected, rtol=0, atol=1e-9)


@given(images)
def test_cider_equals_pycocoevalcap(drawn):
    hypotheses, references = map(list, zip(*drawn, strict=True))
    _, expected = Cider().compute_score(*as_dictionaries(hypotheses, references))
    np.testing.assert_allclose(CiderD(references).score(hypotheses), expected, rtol=0, atol=1e-9)


@every_case
def test_the_committed_scores_equal_pycocoevalcap(case):
    given_captions = as_dictionaries(case.hypotheses, case.references)
    bleu, of_each = Bleu(4).compute_score(*given_captions, verbose=0)
    assert case.bleu == pytest.approx(bleu, abs=1e-12)
    assert case.bleu_4 == pytest.approx(of_each[3], abs=1e-12)
    assert case.rouge_l == pytest.approx(Rouge().compute_score(*given_captions)[1], abs=1e-12)
    assert case.cider_d == pytest.approx(Cider().compute_score(*given_captions)[1], abs=1e-12)
