"""Stage `vocab`: counts the tokens of the training captions.

Reads captions.csv. Writes vocab.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.datasets.entries import SPLITS
from pipeline.datasets.tables import read_captions
from pipeline.errors import ParamsError
from pipeline.files import write_json
from pipeline.text.tokenizers import TOKENIZERS, UNITS
from pipeline.text.vocabulary import Vocabulary
from pipeline.text.writing_systems import share_with_dropped_letters
from pipeline.tokens import SPECIAL_TOKENS, UNK
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.params import Params


@dataclass(frozen=True)
class VocabFiles:
    """Input and output of the stage."""

    captions: Path = paths.CAPTIONS
    vocabulary: Path = paths.VOCABULARY


@dataclass(frozen=True)
class VocabReport:
    """The vocabulary's size, and how much of the other splits it covers."""

    tokens: int
    unit: str
    coverage: dict[str, float]
    """By split, where it has captions: the share of its tokens that are in the vocabulary."""
    captions: int
    """Training captions."""
    max_length: int
    """Tokens to which training captions are cut."""
    cut: int
    """Training captions that are longer."""
    longest: int
    """Tokens of the longest one."""
    share_with_dropped_letters: float
    """The share of training captions that hold letters or marks that the word tokenizer drops; 0 for the unit
    character."""


def vocab(files: VocabFiles, params: "Params") -> VocabReport:
    """Build and write the vocabulary.

    Raises `DataError` for the table, and `ParamsError` when no token is frequent enough.
    """
    unit, min_count = params.vocab.unit, params.vocab.min_count
    tokenizer = UNITS[unit]
    tokenize = TOKENIZERS[tokenizer]
    captions = {split: read_captions(files.captions, split) for split in SPLITS}

    def tokens(split: str) -> Iterator[list[str]]:
        return (tokenize(caption) for of_image in captions[split].values() for caption in of_image)

    given = params.vocab.max_length
    max_length = given if isinstance(given, int) else None
    vocabulary = Vocabulary.build(tokens("train"), min_count=min_count, tokenizer=tokenizer, max_length=max_length)
    if len(vocabulary) == len(SPECIAL_TOKENS):
        raise ParamsError(
            f"params.vocab: the vocabulary is empty, because no {unit} reaches min_count = {min_count} in the "
            f"{counted(vocabulary.counts[UNK], unit)} of the training captions; lower min_count"
            + (", or set unit to character and params.score.rerank.neighbors to 0" if unit != "character" else "")
        )
    write_json(files.vocabulary, vocabulary.to_json())
    coverage = {split: vocabulary.coverage(tokens(split)) for split in ("val", "test") if captions[split]}
    lengths = [len(caption) for caption in tokens("train")]
    cut = sum(length > vocabulary.max_length for length in lengths)
    texts = chain.from_iterable(captions["train"].values())
    return VocabReport(
        tokens=len(vocabulary),
        unit=unit,
        coverage=coverage,
        captions=len(lengths),
        max_length=vocabulary.max_length,
        cut=cut,
        longest=max(lengths),
        share_with_dropped_letters=share_with_dropped_letters(texts) if unit == "word" else 0.0,
    )
