"""METEOR 1.5 (Denkowski and Lavie 2014), with the Java program that pycocoevalcap brings.

It matches stems, synonyms and paraphrases from its own tables, so the alignment is left to the jar: one line of 23
counts per picture. What follows from the counts is computed here, which gives the score of any choice of pictures, and
so an interval, without asking Java again. A test holds the result to pycocoevalcap's.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParamsError
from pipeline.metrics.input_checks import check_pairs

COLUMNS = 23
"""Lengths of both sides, their function words, four matchers with four counts each, chunks, matched words of both."""
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Recall against precision, the shape and weight of the penalty for broken order, content against function words."""
MATCHERS = (1.0, 0.6, 0.8, 0.6)
"""Weights of equal words, equal stems, synonyms and paraphrases, for English."""

Floats = NDArray[np.float64]


def find_jar() -> Path:
    """The jar of pycocoevalcap. Raises `ParamsError` that says plainly what is missing."""
    if shutil.which("java") is None:
        raise ParamsError(
            "METEOR needs Java, and there is no `java` on the PATH; install a Java runtime, or leave METEOR out: "
            "all other scores need none"
        )
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found and found.submodule_search_locations) or ():
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise ParamsError(
        "METEOR needs the program that pycocoevalcap brings; install it with `pip install -e '.[meteor]'`, or leave "
        "METEOR out"
    )


def meteor_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """What METEOR is made of, for each picture: (N, 23). Captions are tokens between spaces.

    Raises `ValueError` when the two do not have one entry per picture or a picture has no reference, `ParamsError`
    where there is no Java or it fails.
    """
    check_pairs(hypotheses, references)
    jar = find_jar()
    lines = [
        " ||| ".join(["SCORE", *map(_field, captions), _field(hypothesis)])
        for hypothesis, captions in zip(hypotheses, references, strict=True)
    ]
    command = ["java", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(
        command, cwd=jar.parent, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", check=False
    )
    try:
        rows = np.array([line.split() for line in done.stdout.splitlines()], np.float64).reshape(-1, COLUMNS)
    except ValueError:
        rows = np.empty((0, COLUMNS))
    if len(rows) != len(lines):
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ParamsError(f"METEOR: the Java program failed: {reason}")
    # As in the jar's sum over pictures: a caption that matches wholly and in order has nothing to be broken.
    whole = (rows[:, 20] == 1) & (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1])
    rows[whole, 20] = 0
    return rows


def meteor_from_statistics(statistics: Floats) -> Floats:
    """METEOR between 0 and 1, (...), from summed statistics (..., 23); on single rows that of each picture."""
    length, reference_length, function, reference_function = np.moveaxis(statistics[..., :4], -1, 0)
    matches = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 4)  # (..., matcher, side and kind)
    kinds = np.array([DELTA, DELTA, 1 - DELTA, 1 - DELTA])
    weighted = np.einsum("...mk,m,k->...k", matches, np.array(MATCHERS), kinds)
    precision = _ratio(weighted[..., 0] + weighted[..., 2], DELTA * (length - function) + (1 - DELTA) * function)
    recall = _ratio(
        weighted[..., 1] + weighted[..., 3],
        DELTA * (reference_length - reference_function) + (1 - DELTA) * reference_function,
    )
    mean = _ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    chunks, words = statistics[..., 20], (statistics[..., 21] + statistics[..., 22]) / 2
    score: Floats = mean * (1 - GAMMA * _ratio(chunks, words) ** BETA)
    return score


def _ratio(above: Floats, below: Floats) -> Floats:
    """0 where nothing is divided by nothing."""
    return np.divide(above, below, out=np.zeros_like(above, np.float64), where=below > 0)


def _field(caption: str) -> str:
    """The program's own separator cannot be part of a caption."""
    return caption.replace("|||", "").replace("  ", " ")
