"""evaluation.json: the results of the `score` stage that the report and the model card are made from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ArtefactError, DataError
from pipeline.files import write_text
from pipeline.metrics.diversity import ends_in_function_word, repeats_a_phrase, repeats_a_word
from pipeline.metrics.evaluation import Evaluation
from pipeline.metrics.scores import Scores
from pipeline.options import first_error
from pipeline.text import character_tokenizer

EXAMPLES = 60
"""Images whose details are kept: this many best, this many worst and twice as many random ones."""
FOURGRAMS = 3
"""The column of BLEU's statistics with the matches of order 4."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreRecord(_Record):
    """A score times 100, with the ends of its 95% interval."""

    value: float
    low: float | None
    """Ends of the 95% interval; None for a single image."""
    high: float | None


class ModelRecord(_Record):
    """The facts about the model."""

    decoder: dict[str, Any]
    """Its kind and options."""
    parameters: int
    vocabulary: int
    """Number of words, without special tokens."""
    tokenizer: str
    spec: str
    """Canonical JSON of the EncoderSpec."""
    regions: int
    channels: int
    has_encoder: bool
    """Whether the model file holds the encoder's weights."""
    has_familiarity: bool
    """Whether `predict` warns about images unlike the training images."""
    trained_on: dict[str, Any]
    """Hashes and counts of the training data, and the best epoch."""
    params: dict[str, Any]
    """Params of the training run, by section."""
    tensors_sha256: str | None = None
    """Digest of the tensors in the model file; None in files of earlier versions."""

    @property
    def unit(self) -> str:
        """What the vocabulary holds: `words` or `characters`."""
        return "characters" if self.tokenizer == character_tokenizer.NAME else "words"


class ImageRecord(_Record):
    """A captioned image."""

    image: str
    caption: str
    references: tuple[str, ...]
    scores: dict[str, float]
    flags: tuple[str, ...]
    """What is unusual about the caption: see `caption_flags`."""
    random_rank: int
    """Its position in a random order."""
    example: bool
    """Whether the report shows the image itself."""
    attention: tuple[tuple[float, ...], ...] | None
    """Attention weights (T, R) of an example; None for other images and decoders without attention."""


class EvaluationFile(_Record):
    """The content of evaluation.json."""

    format: Literal[1] = 1
    split: str
    seed: int
    without_features: int
    """Images of the split that have no features, so that they are not scored."""
    search: dict[str, int | float | str]
    model: ModelRecord
    scores: dict[str, ScoreRecord]
    signatures: dict[str, str]
    diversity: dict[str, float]
    reference_diversity: dict[str, float]
    lengths: dict[int, int]
    """Number of captions by their length in tokens."""
    reference_lengths: dict[int, int]
    images: tuple[ImageRecord, ...]

    def write(self, path: Path) -> None:
        """Write the file. Raises `DiskError`."""
        write_text(path, self.model_dump_json() + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file. Raises `DataError` when it cannot be read, `ArtefactError` when it is not valid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}; run `dvc repro score` first") from error
        except ValidationError as error:
            raise ArtefactError(
                f"{path}: not the results of the score stage: {first_error(error)}; run `dvc repro -f score`"
            ) from error


def score_records(scores: Scores) -> dict[str, ScoreRecord]:
    """Every score with its interval."""
    records = {}
    for name, value in scores.corpus.items():
        low, high = scores.intervals.get(name, (None, None))
        records[name] = ScoreRecord(value=value, low=low, high=high)
    return records


def image_records(
    evaluation: Evaluation, attention: Mapping[str, NDArray[np.float32]], *, seed: int
) -> tuple[ImageRecord, ...]:
    """One record per image, in the order of the evaluation; `attention` has weights (T, R) by image, or none."""
    per_image = {name: values.tolist() for name, values in evaluation.scores.per_image.items()}
    ranks = np.random.default_rng(seed).permutation(len(evaluation.captions)).tolist()
    examples = _examples(per_image["cider_d"], ranks)
    counts = Counter(evaluation.hypotheses)
    matches = evaluation.scores.statistics["bleu"]
    records = []
    for index, (image, tokens) in enumerate(zip(evaluation.captions, evaluation.hypotheses, strict=True)):
        weights = attention[image].tolist() if index in examples and image in attention else ()
        records.append(
            ImageRecord(
                image=image,
                caption=evaluation.captions[image],
                references=tuple(evaluation.references[image]),
                scores={name: round(values[index], 4) for name, values in per_image.items()},
                flags=caption_flags(tokens.split(), counts[tokens], int(matches[index, FOURGRAMS])),
                random_rank=ranks[index],
                example=index in examples,
                attention=tuple(tuple(round(weight, 4) for weight in row) for row in weights) or None,
            )
        )
    return tuple(records)


def caption_flags(tokens: Sequence[str], count: int, fourgrams: int) -> tuple[str, ...]:
    """What is unusual about a caption that `count` images have and that shares `fourgrams` 4-grams with a reference.

    `shared`: several images have it; `unfinished`: it ends in a function word; `repeats`: it repeats a word or phrase;
    `no_match`: it shares no four consecutive words with a reference.
    """
    flags = {
        "shared": count > 1,
        "unfinished": ends_in_function_word(tokens),
        "repeats": repeats_a_word(tokens) or repeats_a_phrase(tokens),
        "no_match": not fourgrams,
    }
    return tuple(name for name, applies in flags.items() if applies)


def _examples(scores: Sequence[float], random_ranks: Sequence[int]) -> set[int]:
    """The indices of the best, the worst and some random images; of a small split all."""
    order = sorted(range(len(scores)), key=lambda index: (scores[index], index))
    random = (index for index, rank in enumerate(random_ranks) if rank < 2 * EXAMPLES)
    return {*order[:EXAMPLES], *order[-EXAMPLES:], *random}
