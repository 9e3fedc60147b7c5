"""vocab: the words that the decoder will know.

Reads captions.csv, its train split. Writes vocab.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.datasets.entries import SPLITS
from pipeline.datasets.tables import read_captions
from pipeline.files import write_json
from pipeline.text.tokenizers import UNITS, get_tokenizer
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pipeline.params import VocabParams


@dataclass(frozen=True)
class Built:
    """The vocabulary's size and how much of the other splits' captions it covers."""

    tokens: int
    unit: str
    coverage: dict[str, float]
    """By split, as far as there are captions: the share of their tokens that are known."""


def build_vocabulary(params: "VocabParams", *, captions: Path, vocabulary_out: Path) -> Built:
    """Raises `DataError`."""
    name = UNITS[params.unit]
    tokenize = get_tokenizer(name, str(captions))
    held = {split: read_captions(captions, split) for split in SPLITS}

    def tokens(split: str) -> Iterator[list[str]]:
        return (tokenize(text) for texts in held[split].values() for text in texts)

    vocabulary = Vocabulary.build(tokens("train"), min_count=params.min_count, tokenizer=name)
    write_json(vocabulary_out, vocabulary.to_json())
    coverage = {split: vocabulary.coverage(tokens(split)) for split in SPLITS if split != "train" and held[split]}
    return Built(len(vocabulary), params.unit, coverage)
