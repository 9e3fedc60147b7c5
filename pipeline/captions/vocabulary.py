"""The words that a decoder knows, from the training captions alone, in an order that depends on nothing else."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.captions import characters
from pipeline.captions.units import spaced
from pipeline.errors import ArtefactError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
BOS, EOS, UNK = 1, 2, 3


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number. The first four are `SPECIAL`; the others are sorted by (-count, token)."""

    tokens: tuple[str, ...]
    counts: tuple[int, ...]
    """In the training captions; the count of <unk> is that of all the words left out."""
    tokenizer: str

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, min_count: int, tokenizer: str) -> Self:
        """From tokenised captions."""
        counts = Counter(token for caption in captions for token in caption)
        kept = sorted(
            (token for token, count in counts.items() if count >= min_count and token not in SPECIAL),
            key=lambda token: (-counts[token], token),
        )
        unknown = sum(counts.values()) - sum(counts[token] for token in kept)
        return cls((*SPECIAL, *kept), (0, 0, 0, unknown, *(counts[token] for token in kept)), tokenizer)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, captions: Iterable[Sequence[str]]) -> list[list[int]]:
        """Token numbers between BOS and EOS."""
        number = {token: place for place, token in enumerate(self.tokens)}
        return [[BOS, *(number.get(token, UNK) for token in caption), EOS] for caption in captions]

    def decode(self, numbers: Iterable[int]) -> str:
        """The caption as it is read: words with single spaces between, or characters."""
        between = "" if self.tokenizer == characters.NAME else " "
        return between.join(self.tokens[number] for number in numbers).strip()

    def for_metrics(self, caption: str) -> str:
        """A caption that `decode` gave, as the metrics take it: tokens with single spaces between."""
        return spaced(characters.tokenize(caption)) if self.tokenizer == characters.NAME else caption

    def coverage(self, captions: Iterable[Sequence[str]]) -> float:
        """The share of the captions' words that are known."""
        known = set(self.tokens)
        words = [token for caption in captions for token in caption]
        return sum(token in known for token in words) / len(words) if words else 1.0

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "tokens": list(self.tokens), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, content: Any, place: str) -> Self:
        """Raises `ArtefactError` naming `place`."""
        try:
            vocabulary = cls(tuple(content["tokens"]), tuple(content["counts"]), content["tokenizer"])
        except (TypeError, KeyError) as error:
            raise ArtefactError(f"{place}: not a vocabulary; run `dvc repro -f vocab`") from error
        if vocabulary.tokens[: len(SPECIAL)] != SPECIAL or len(vocabulary.tokens) != len(vocabulary.counts):
            raise ArtefactError(f"{place}: not a vocabulary of this version; run `dvc repro -f vocab`")
        return vocabulary
