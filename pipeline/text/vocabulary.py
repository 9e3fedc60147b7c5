"""The words that a decoder knows, from the training captions alone, in an order that depends on nothing else."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer as characters
from pipeline.text.tokenizers import join_tokens

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
BOS, EOS, UNK = 1, 2, 3
SELDOM = 0.05
"""The share of captions up to which something is what people do not say."""
LONGEST_REPEATED = 4
"""Tokens of the longest sequences that are looked for twice in a caption."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number. The first four are `SPECIAL_TOKENS`; the others are sorted by (-count, token)."""

    tokens: tuple[str, ...]
    counts: tuple[int, ...]
    """In the training captions; the count of <unk> is that of all the words left out."""
    tokenizer: str
    no_repeat_ngram: int = 0
    """The least n, from 2 on, for which people seldom say a sequence of n tokens twice in a caption: what a search need
    not say either. 0 where they do so up to `LONGEST_REPEATED` tokens."""

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, min_count: int, tokenizer: str) -> Self:
        """From tokenised captions, gone through once."""
        counts: Counter[str] = Counter()
        total, repeating = 0, Counter(dict.fromkeys(range(2, LONGEST_REPEATED + 1), 0))
        for caption in captions:
            counts.update(caption)
            total += 1
            for size in repeating:
                sequences = list(zip(*(caption[start:] for start in range(size)), strict=False))
                if len(set(sequences)) == len(sequences):
                    break  # and so it is with longer ones
                repeating[size] += 1
        unrepeated = [size for size, number in repeating.items() if total and number <= SELDOM * total]
        kept = sorted(
            (token for token, count in counts.items() if count >= min_count and token not in SPECIAL_TOKENS),
            key=lambda token: (-counts[token], token),
        )
        unknown = sum(counts.values()) - sum(counts[token] for token in kept)
        of_each = (0, 0, 0, unknown, *(counts[token] for token in kept))
        return cls((*SPECIAL_TOKENS, *kept), of_each, tokenizer, unrepeated[0] if unrepeated else 0)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, captions: Iterable[Sequence[str]]) -> list[list[int]]:
        """Token numbers between BOS and EOS. One of the four special tokens, spelt in a caption, is unknown."""
        number = {token: place for place, token in enumerate(self.tokens) if place >= len(SPECIAL_TOKENS)}
        return [[BOS, *(number.get(token, UNK) for token in caption), EOS] for caption in captions]

    def decode(self, numbers: Iterable[int]) -> str:
        """The caption as it is read: words with single spaces between, or characters."""
        between = "" if self.tokenizer == characters.NAME else " "
        return between.join(self.tokens[number] for number in numbers).strip()

    def for_metrics(self, caption: str) -> str:
        """A caption that `decode` gave, as the metrics take it: tokens with single spaces between."""
        return join_tokens(characters.tokenize(caption)) if self.tokenizer == characters.NAME else caption

    def coverage(self, captions: Iterable[Sequence[str]]) -> float:
        """The share of the captions' words that are known."""
        known = set(self.tokens[len(SPECIAL_TOKENS) :])
        words = [token for caption in captions for token in caption]
        return sum(token in known for token in words) / len(words) if words else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "no_repeat_ngram": self.no_repeat_ngram,
            "tokens": list(self.tokens),
            "counts": list(self.counts),
        }

    @classmethod
    def from_json(cls, content: Any, place: str) -> Self:
        """Raises `ArtefactError` naming `place`."""
        try:
            repeated = content["no_repeat_ngram"]
            vocabulary = cls(tuple(content["tokens"]), tuple(content["counts"]), content["tokenizer"], repeated)
        except (TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(f"{place}: not a vocabulary; run `dvc repro -f vocab`") from error
        whole = vocabulary.tokens[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS and len(vocabulary.tokens) == len(vocabulary.counts)
        if not whole or type(repeated) is not int or repeated < 0:
            raise ArtefactError(f"{place}: not a vocabulary of this version; run `dvc repro -f vocab`")
        return vocabulary
