"""METEOR 1.5 (Denkowski and Lavie 2014), with the Java program that comes with pycocoevalcap.

The program aligns words by its own tables of stems, synonyms and paraphrases, and prints 23 counts per image. The score
follows from the counts here, so that the bootstrap does not start Java again.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ParamsError
from pipeline.metrics.metric import Floats, Metric

COLUMNS = 23
"""Lengths of hypothesis and reference, their function words, four counts for each of four matchers, chunks, matched
words of hypothesis and reference."""
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Weight of recall, exponent and weight of the fragmentation penalty, weight of content words (English)."""
MATCHERS = (1.0, 0.6, 0.8, 0.6)
"""Weights of exact matches, stems, synonyms and paraphrases (English)."""


def find_jar() -> Path:
    """The path of METEOR's jar. Raises `ParamsError` naming what is not installed."""
    if shutil.which("java") is None:
        raise ParamsError(
            "METEOR needs Java, and there is no `java` on the PATH; install a Java runtime, or leave METEOR out"
        )
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found and found.submodule_search_locations) or ():
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise ParamsError(
        "METEOR needs the program that comes with pycocoevalcap; run `pip install -e '.[meteor]'` in the "
        "checkout, or leave METEOR out"
    )


def meteor_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """The counts that METEOR is made of, for each image: (N, 23), in the order of `COLUMNS`.

    Raises `ParamsError` when Java or the jar is not installed, or the program fails.
    """
    jar = find_jar()
    lines = [
        " ||| ".join(["SCORE", *captions, hypothesis])  # no token is "|||": both tokenizers split it
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
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ParamsError(f"METEOR: the Java program failed: {reason}")
    # As in the jar's own sum over images: a caption that matches completely and in order has no fragments.
    complete = (rows[:, 20] == 1) & (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1])
    rows[complete, 20] = 0
    return rows


def meteor_scores(sums: Floats, images: int = 1) -> Floats:
    """METEOR between 0 and 1, (..., 1), from summed statistics (..., 23); the number of images does not matter."""
    length, reference_length, function, reference_function = np.moveaxis(sums[..., :4], -1, 0)
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)  # (..., matcher, side and kind)
    kinds = np.array([DELTA, DELTA, 1 - DELTA, 1 - DELTA])
    weighted = np.einsum("...mk,m,k->...k", matches, np.array(MATCHERS), kinds)
    precision = _ratio(weighted[..., 0] + weighted[..., 2], DELTA * (length - function) + (1 - DELTA) * function)
    recall = _ratio(
        weighted[..., 1] + weighted[..., 3],
        DELTA * (reference_length - reference_function) + (1 - DELTA) * reference_function,
    )
    mean = _ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    chunks, words = sums[..., 20], (sums[..., 21] + sums[..., 22]) / 2
    score: Floats = mean * (1 - GAMMA * _ratio(chunks, words) ** BETA)
    return score[..., None]


METEOR = Metric(meteor_statistics, meteor_scores)


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient, 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros_like(above, np.float64), where=below > 0)
