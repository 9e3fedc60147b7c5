"""Evaluates raw captions against raw references: tokenizes both, scores them and computes diversity statistics.

The `score` stage, `captioner score` and `captioner compare` all call `evaluate`, so the same captions get the same
numbers everywhere.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.metrics.diversity import diversity
from pipeline.metrics.scores import Scores, score
from pipeline.text import ptb_tokenizer
from pipeline.text.tokenizers import join_tokens


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One caption per image, with scores and statistics."""

    captions: Mapping[str, str]
    """By image, in the order of their names, which is that of `scores`; resamples then do not depend on the files."""
    references: Mapping[str, Sequence[str]]
    hypotheses: tuple[str, ...]
    """The captions as tokens joined with spaces."""
    scores: Scores
    diversity: dict[str, float]
    reference_diversity: dict[str, float]
    """The same statistics for the first reference of each image."""
    lengths: Counter[int]
    """Number of captions by their length in tokens."""
    reference_lengths: Counter[int]

    def metrics(self) -> dict[str, object]:
        """The content of scores.json, rounded."""
        scores = self.scores
        return {
            **{name: round(value, 4) for name, value in scores.corpus.items()},
            "intervals": {name: [round(low, 4), round(high, 4)] for name, (low, high) in scores.intervals.items()},
            "images": scores.images,
            **{name: round(value, 4) for name, value in self.diversity.items()},
            "signatures": scores.signatures,
        }


def evaluate(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    seed: int,
    vocabulary_size: int | None = None,
    meteor: bool = False,
    tokenize: Callable[[str], list[str]] = ptb_tokenizer.tokenize,
) -> Evaluation:
    """Evaluate captions by image; `references` has the same images, each with at least one.

    Raises `ParamsError` when METEOR is requested and not installed.
    """
    captions = {image: captions[image] for image in sorted(captions)}
    references = {image: references[image] for image in captions}
    tokens = [tokenize(text) for text in captions.values()]
    reference_tokens = [[tokenize(text) for text in texts] for texts in references.values()]
    hypotheses = [join_tokens(one) for one in tokens]
    tokenized = [[join_tokens(one) for one in of_image] for of_image in reference_tokens]
    return Evaluation(
        captions=captions,
        references=references,
        hypotheses=tuple(hypotheses),
        scores=score(hypotheses, tokenized, seed=seed, meteor=meteor),
        diversity=diversity(hypotheses, vocabulary_size),
        reference_diversity=diversity([texts[0] for texts in tokenized]),
        lengths=Counter(map(len, tokens)),
        reference_lengths=Counter(len(one) for of_image in reference_tokens for one in of_image),
    )
