"""vocab: the words that the decoder will know.

Reads captions.csv, its train split. Writes vocab.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.captions import tokenizer
from pipeline.captions.vocabulary import Vocabulary
from pipeline.files import write_json
from pipeline.stages.tables import read_captions

if TYPE_CHECKING:
    from pipeline.params import VocabParams


@dataclass(frozen=True)
class Built:
    """The vocabulary's size and how much of the val captions it covers."""

    tokens: int
    val_coverage: float


def build_vocabulary(params: "VocabParams", *, captions: Path, vocabulary_out: Path) -> Built:
    """Raises `DataError`."""
    train, val = (
        [tokenizer.tokenize(text) for texts in read_captions(captions, split).values() for text in texts]
        for split in ("train", "val")
    )
    vocabulary = Vocabulary.build(train, min_count=params.min_count, tokenizer=tokenizer.NAME)
    write_json(vocabulary_out, vocabulary.to_json())
    return Built(len(vocabulary), vocabulary.coverage(val))
