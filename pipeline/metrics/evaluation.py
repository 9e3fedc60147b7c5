"""Captions as people write them against references as people write them: tokenised alike, scored, and looked at.

The one way in which captions are scored, whoever made them: the `score` stage, `captioner score` and `captioner
compare` come through here, and so give the same numbers for the same captions.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.metrics.bootstrap import RESAMPLES
from pipeline.metrics.diversity import diversity
from pipeline.metrics.scores import Difference, Scores, compare, score
from pipeline.text import ptb_tokenizer as tokenizer


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One caption for each of some pictures, with what is to be known of them."""

    captions: Mapping[str, str]
    """By picture, as they were given; the scores's pictures are in this order."""
    references: Mapping[str, Sequence[str]]
    tokens: tuple[tuple[str, ...], ...]
    """Of each caption."""
    scores: Scores
    diversity: dict[str, float]
    of_references: dict[str, float]
    """The same signs for what people wrote: the first reference of each picture."""
    lengths: Counter[int]
    """Captions by their number of tokens."""
    reference_lengths: Counter[int]

    def metrics(self) -> dict[str, object]:
        """What a file of metrics holds, rounded."""
        card = self.scores
        return {
            **{name: round(value, 4) for name, value in card.scores.items()},
            "intervals": {name: [round(low, 4), round(high, 4)] for name, (low, high) in card.intervals.items()},
            "pictures": card.pictures,
            **{name: round(value, 4) for name, value in self.diversity.items()},
            "signature": card.signature,
        }


def evaluate(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    seed: int,
    vocabulary_size: int | None = None,
    meteor: bool = False,
    resamples: int = RESAMPLES,
    tokenize: Callable[[str], list[str]] = tokenizer.tokenize,
) -> Evaluation:
    """Both by picture, with the same pictures in the same order; a space that is a token does not count.

    Raises `DataError` where that is not so or a picture has no reference, `ParamsError` when METEOR is asked for and
    cannot be had.
    """
    if list(captions) != list(references):
        raise DataError(f"captions of {len(captions)} pictures cannot be scored with references of {len(references)}")
    without = [picture for picture, texts in references.items() if not texts]
    if without or not references:
        raise DataError(f"no references to score with: {', '.join(without[:5]) or 'no pictures'}")
    tokens = [_without_spaces(tokenize(text)) for text in captions.values()]
    reference_tokens = [[_without_spaces(tokenize(text)) for text in texts] for texts in references.values()]
    hypotheses = list(map(" ".join, tokens))
    tokenised = [list(map(" ".join, texts)) for texts in reference_tokens]
    return Evaluation(
        captions=captions,
        references=references,
        tokens=tuple(map(tuple, tokens)),
        scores=score(hypotheses, tokenised, seed=seed, resamples=resamples, meteor=meteor),
        diversity=diversity(hypotheses, vocabulary_size),
        of_references=diversity([texts[0] for texts in tokenised], None),
        lengths=Counter(map(len, tokens)),
        reference_lengths=Counter(len(text) for texts in reference_tokens for text in texts),
    )


def _without_spaces(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token != " "]


@dataclass(frozen=True)
class Change:
    """A picture that two systems caption differently."""

    picture: str
    first: str
    second: str
    first_score: float
    """CIDEr-D, times 100."""
    second_score: float
    references: tuple[str, ...]

    @property
    def difference(self) -> float:
        return self.second_score - self.first_score


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two systems on the same pictures."""

    first: Evaluation
    second: Evaluation
    differences: dict[str, Difference]
    """The second minus the first."""
    changes: tuple[Change, ...]
    """Every caption that is not the same in both, the largest difference in CIDEr-D first."""
    left_out: int
    """Pictures that only one of the two has."""


def compare_captions(
    first: Mapping[str, str],
    second: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    seed: int,
    meteor: bool = False,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Score both over the pictures that both have; `references` are those of all of them.

    Raises `DataError` when they share no picture.
    """
    shared = [picture for picture in first if picture in second]
    if not shared:
        raise DataError("the two have no picture in common, so there is nothing to compare")
    theirs = {picture: references[picture] for picture in shared}
    one, other = (
        evaluate({p: captions[p] for p in shared}, theirs, seed=seed, meteor=meteor, resamples=resamples)
        for captions in (first, second)
    )
    before, after = (side.scores.per_image["cider_d"].tolist() for side in (one, other))
    changes = [
        Change(picture, first[picture], second[picture], before[place], after[place], tuple(theirs[picture]))
        for place, picture in enumerate(shared)
        if one.tokens[place] != other.tokens[place]
    ]
    return Comparison(
        first=one,
        second=other,
        differences=compare(one.scores, other.scores, seed=seed, resamples=resamples),
        changes=tuple(sorted(changes, key=lambda change: (-abs(change.difference), change.picture))),
        left_out=len(first) + len(second) - 2 * len(shared),
    )
