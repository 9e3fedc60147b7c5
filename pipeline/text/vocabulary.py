"""The vocabulary of the decoder. It depends on the training captions alone, not on their order."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer
from pipeline.text.tokenizers import MAX_TOKENS, join_tokens
from pipeline.tokens import BOS, EOS, SPECIAL_TOKENS, UNK

RARE_SHARE = 0.05
"""Captions that repeat an n-gram are rare up to this share of all."""
MAX_NGRAM = 4
"""The longest n-grams that are checked for repetition."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by index: `SPECIAL_TOKENS`, then the others in the order of (-count, token)."""

    tokens: tuple[str, ...]
    counts: tuple[int, ...]
    """Occurrences in the training captions; that of <unk> is the sum over all tokens left out."""
    tokenizer: str
    no_repeat_ngram: int = 0
    """The smallest n >= 2 for which training captions rarely repeat an n-gram: the default for a search that forbids
    repetition. 0 where even n-grams of `MAX_NGRAM` tokens are often repeated."""
    max_length: int = 60
    """Tokens to which training captions are cut: the default for the longest caption of a search."""

    @classmethod
    def build(
        cls, captions: Iterable[Sequence[str]], *, min_count: int, tokenizer: str, max_length: int | None = None
    ) -> Self:
        """Build the vocabulary from tokenized captions, in one pass. Rarer tokens than `min_count` become <unk>.

        `max_length` is by default the length of the longest caption, at most that of `MAX_TOKENS`.
        """
        counts: Counter[str] = Counter()
        longest = 1
        total, repeating = 0, dict.fromkeys(range(2, MAX_NGRAM + 1), 0)
        for caption in captions:
            counts.update(caption)
            longest = max(longest, len(caption))
            total += 1
            for size in repeating:
                ngrams = list(zip(*(caption[start:] for start in range(size)), strict=False))
                if len(set(ngrams)) == len(ngrams):
                    break  # longer n-grams are not repeated either
                repeating[size] += 1
        rare = [size for size, number in repeating.items() if total and number <= RARE_SHARE * total]
        kept = sorted(
            (token for token, count in counts.items() if count >= min_count and token not in SPECIAL_TOKENS),
            key=lambda token: (-counts[token], token),
        )
        unknown = counts.total() - sum(counts[token] for token in kept)
        of_tokens = (0, 0, 0, unknown, *(counts[token] for token in kept))
        limit = max_length or min(longest, MAX_TOKENS[tokenizer])
        return cls((*SPECIAL_TOKENS, *kept), of_tokens, tokenizer, rare[0] if rare else 0, limit)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, captions: Iterable[Sequence[str]]) -> list[list[int]]:
        """Token indices between BOS and EOS. The name of a special token in a caption becomes UNK."""
        indices = {token: index for index, token in enumerate(self.tokens) if index >= len(SPECIAL_TOKENS)}
        return [[BOS, *(indices.get(token, UNK) for token in caption), EOS] for caption in captions]

    def decode(self, indices: Iterable[int]) -> str:
        """The caption as text: words with single spaces between, or characters."""
        separator = "" if self.tokenizer == character_tokenizer.NAME else " "
        return separator.join(self.tokens[index] for index in indices).strip()

    def for_metrics(self, caption: str) -> str:
        """A caption from `decode` as the metrics take it: tokens with single spaces between."""
        if self.tokenizer == character_tokenizer.NAME:
            return join_tokens(character_tokenizer.tokenize(caption))
        return caption

    def coverage(self, captions: Iterable[Sequence[str]]) -> float:
        """The share of the captions' tokens that are in the vocabulary."""
        known = set(self.tokens[len(SPECIAL_TOKENS) :])
        tokens = [token for caption in captions for token in caption]
        return sum(token in known for token in tokens) / len(tokens) if tokens else 1.0

    def to_json(self) -> dict[str, Any]:
        names = ("tokenizer", "no_repeat_ngram", "max_length", "tokens", "counts")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, content: Any, place: str) -> Self:
        """Rebuild a vocabulary stored in the file `place`. Raises `ArtefactError`."""
        try:
            ngram, limit = content["no_repeat_ngram"], content["max_length"]
            vocabulary = cls(tuple(content["tokens"]), tuple(content["counts"]), content["tokenizer"], ngram, limit)
        except (TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(f"{place}: not a vocabulary; run `dvc repro -f vocab`") from error
        if not vocabulary._is_consistent():
            raise ArtefactError(f"{place}: not a vocabulary of this version; run `dvc repro -f vocab`")
        return vocabulary

    def _is_consistent(self) -> bool:
        """Whether the types and sizes are those that `build` makes: the values may be those of a damaged file."""
        return (
            self.tokens[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS
            and all(type(token) is str for token in self.tokens)
            and len(set(self.tokens)) == len(self.tokens) == len(self.counts)
            and all(type(count) is int and count >= 0 for count in self.counts)
            and type(self.tokenizer) is str
            and type(self.no_repeat_ngram) is int
            and 0 <= self.no_repeat_ngram <= MAX_NGRAM
            and type(self.max_length) is int
            and 1 <= self.max_length <= 1000
        )
