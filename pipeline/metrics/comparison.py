"""Compares two systems on the images that both have captioned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.metrics.scores import Difference, compare
from pipeline.text import ptb_tokenizer


@dataclass(frozen=True)
class Change:
    """An image that the two systems caption differently."""

    image: str
    first: str
    second: str
    first_score: float
    """CIDEr-D, times 100."""
    second_score: float
    references: tuple[str, ...]

    @property
    def difference(self) -> float:
        """CIDEr-D of the second caption minus that of the first."""
        return self.second_score - self.first_score


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two systems on the same images."""

    first: Evaluation
    second: Evaluation
    differences: dict[str, Difference]
    """The second minus the first, for each score."""
    changes: tuple[Change, ...]
    """Every caption that differs after tokenization, the largest difference in CIDEr-D first."""
    left_out: int
    """The number of images that only one of the two has captioned."""


def compare_captions(
    first: Mapping[str, str],
    second: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    seed: int,
    meteor: bool = False,
    tokenize: Callable[[str], list[str]] = ptb_tokenizer.tokenize,
) -> Comparison:
    """Score both systems on the images that both have; `references` covers the images of both.

    Raises `DataError` when they have no image in common.
    """
    shared = sorted(image for image in first if image in second)
    if not shared:
        raise DataError(
            "the two files have no image in common, so there is nothing to compare; for a revision, commit the results "
            "of `dvc repro` on this dataset first"
        )
    texts = {image: references[image] for image in shared}
    one, other = (
        evaluate({image: captions[image] for image in shared}, texts, seed=seed, meteor=meteor, tokenize=tokenize)
        for captions in (first, second)
    )
    changes = [
        Change(image, first[image], second[image], before, after, tuple(texts[image]))
        for image, tokens, other_tokens, before, after in zip(
            shared,
            one.hypotheses,
            other.hypotheses,
            one.scores.per_image["cider_d"].tolist(),
            other.scores.per_image["cider_d"].tolist(),
            strict=True,
        )
        if tokens != other_tokens
    ]
    return Comparison(
        first=one,
        second=other,
        differences=compare(one.scores, other.scores, seed=seed),
        changes=tuple(sorted(changes, key=lambda change: (-abs(change.difference), change.image))),
        left_out=len(first) + len(second) - 2 * len(shared),
    )
