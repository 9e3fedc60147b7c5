"""The pictures of the report: which of them it holds, and what is to be seen of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.archives import read_image_bytes
from pipeline.decoders.beam_search import Hypothesis
from pipeline.encoders.images import ImageError, thumbnail
from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.metrics.diversity import ends_in_function_word, repeats_a_phrase, repeats_a_word
from pipeline.metrics.evaluation import Evaluation
from pipeline.metrics.scores import NAMES
from pipeline.report import Card, Looks, Picture

EACH = 60
"""Pictures in the page: this many of the best, of the worst, and twice as many at random; of a small split all."""
SIDE = 280
"""Of the small pictures, in pixels."""
NOTHING_SHARED = 0.1
"""A caption of four words or more with less BLEU-4 has no four of them in a row that a reference has."""


def make_cards(
    found: Mapping[str, Hypothesis],
    evaluation: Evaluation,
    files: Mapping[str, Path],
    spec: EncoderSpec,
    *,
    seed: int,
) -> list[Card]:
    """One per picture, in the order of the scores."""
    images = list(evaluation.captions)
    scores = {NAMES[name]: values.tolist() for name, values in evaluation.scores.per_image.items()}
    chance = np.random.default_rng(seed).permutation(len(images)).tolist()
    shown = _shown(scores[NAMES["cider_d"]], chance)
    times = Counter(evaluation.tokens)
    cards = []
    for place, image in enumerate(images):
        picture = _picture(files[image]) if place in shown else None
        tokens = evaluation.tokens[place]
        cards.append(
            Card(
                image=image,
                caption=evaluation.captions[image],
                references=evaluation.references[image],
                scores={name: values[place] for name, values in scores.items()},
                chance=chance[place],
                signs=_signs(tokens, times[tokens], scores[NAMES["bleu_4"]][place]),
                picture=picture,
                looks=_looks(found[image], picture, spec),
            )
        )
    return cards


def _shown(scores: Sequence[float], chance: Sequence[int]) -> set[int]:
    order = sorted(range(len(scores)), key=lambda place: (scores[place], place))
    return {*order[:EACH], *order[-EACH:], *(place for place, rank in enumerate(chance) if rank < 2 * EACH)}


def _signs(tokens: Sequence[str], times: int, bleu_4: float) -> tuple[str, ...]:
    """By the names of `report.page.FILTERS`."""
    signs = {
        "shared": times > 1,
        "unfinished": ends_in_function_word(tokens),
        "repeats": repeats_a_word(tokens) or repeats_a_phrase(tokens),
        "none": len(tokens) < 4 or bleu_4 < NOTHING_SHARED,
    }
    return tuple(name for name, seen in signs.items() if seen)


def _picture(path: Path) -> Picture | None:
    try:
        return Picture(*thumbnail(read_image_bytes(path), SIDE))
    except (OSError, ImageError):
        return None  # gone since it was encoded: its caption is shown all the same


def _looks(hypothesis: Hypothesis, picture: Picture | None, spec: EncoderSpec) -> Looks | None:
    if picture is None or not hypothesis.attention or len(hypothesis.attention[0]) != spec.grid**2:
        return None
    weights = hypothesis.attention[: len(hypothesis.tokens)]
    return Looks(weights, spec.grid, seen_by(spec.transform, picture.width, picture.height))


def seen_by(transform: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a picture that the encoder sees, as shares of it: left, top, width, height."""
    if transform.shorter_side is None:
        return 0.0, 0.0, 1.0, 1.0
    side = min(1.0, transform.size / transform.shorter_side) * min(width, height)
    return (1 - side / width) / 2, (1 - side / height) / 2, side / width, side / height
