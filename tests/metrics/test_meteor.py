"""METEOR: the score computed from the Java program's counts equals the program's own."""

import shutil

import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES

from pipeline.errors import ParamsError
from pipeline.metrics import meteor
from pipeline.metrics.meteor import COLUMNS, meteor_scores, meteor_statistics
from pipeline.metrics.scores import score

# One line of counts per image of the known case, as the program printed them, and its scores.
COUNTS = [
    [5, 9, 2, 4, 3, 3, 1, 1, *[0] * 12, 1, 4, 4],
    [7, 8, 3, 3, 4, 4, 2, 2, *[0] * 12, 3, 6, 6],
    [2, 6, 1, 3, 1, 1, 1, 1, *[0] * 12, 1, 2, 2],
    [1, 2, 0, 1, *[0] * 16, 0, 0, 0],
    [0, 2, 0, 1, *[0] * 16, 0, 0, 0],
    [3, 3, 1, 1, 2, 2, 1, 1, *[0] * 12, 0, 3, 3],  # the program prints one chunk and counts none
]
OF_EACH = [0.30633990452071946, 0.38104702383547334, 0.17691468963789833, 0.0, 0.0, 1.0]
OF_ALL = 0.30037131130852907


def test_the_score_follows_from_the_counts():
    counts = np.array(COUNTS, np.float64)
    assert counts.shape == (6, COLUMNS)
    assert meteor_scores(counts)[:, 0] == pytest.approx(OF_EACH, abs=1e-15)
    assert meteor_scores(counts.sum(axis=0)).item() == pytest.approx(OF_ALL, abs=1e-15)


def test_without_java_the_error_names_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ParamsError, match=r"METEOR needs Java, and there is no `java` on the PATH"):
        score(HYPOTHESES, REFERENCES, seed=0, meteor=True)


def test_without_the_jar_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ParamsError, match=r"pip install -e '\.\[meteor\]'"):
        meteor_statistics(HYPOTHESES, REFERENCES)


@pytest.fixture(scope="module")
def oracle():
    """pycocoevalcap's METEOR."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap comes with pip install -e '.[dev]'")
    if shutil.which("java") is None:
        pytest.skip("METEOR's reference implementation needs Java, and there is none on the PATH")
    from pycocoevalcap.meteor.meteor import Meteor

    reference = Meteor()
    yield reference
    for pipe in (reference.meteor_p.stdout, reference.meteor_p.stderr):
        pipe.close()


TRICKY = {
    "words of no reference": ("zebra grazes", ["a dog runs"]),
    "nothing": ("", ["a dog runs", "the dog"]),
    "stems and synonyms": ("a boy jumped quickly", ["the child is jumping fast", "a boy jumps"]),
    "the same": ("a dog runs", ["a dog runs"]),
    "broken order": ("runs dog a", ["a dog runs"]),
    "letters beyond ASCII": ("a man in 北京", ["a man in 南京"]),
}


@pytest.mark.slow
def test_scores_equal_pycocoevalcap(oracle):
    hypotheses = [*HYPOTHESES, *(caption for caption, _ in TRICKY.values())]
    references = [*REFERENCES, *(texts for _, texts in TRICKY.values())]
    expected, of_each = oracle.compute_score(
        dict(enumerate(references)), {place: [caption] for place, caption in enumerate(hypotheses)}
    )
    scores = score(hypotheses, references, seed=0, meteor=True)
    assert scores.corpus["meteor"] / 100 == pytest.approx(expected, abs=1e-12)
    assert scores.per_image["meteor"] / 100 == pytest.approx(of_each, abs=1e-12)
    low, high = scores.intervals["meteor"]
    assert low < scores.corpus["meteor"] < high
