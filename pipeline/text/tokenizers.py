"""The tokenizers by name: words or characters. A vocabulary stores the name of its tokenizer."""

from collections.abc import Callable, Iterable

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer, ptb_tokenizer

UNITS = {"word": ptb_tokenizer.NAME, "character": character_tokenizer.NAME}
"""The tokenizer's name by `params.vocab.unit`."""
TOKENIZERS = {ptb_tokenizer.NAME: ptb_tokenizer.tokenize, character_tokenizer.NAME: character_tokenizer.tokenize}
MAX_TOKENS = {ptb_tokenizer.NAME: 60, character_tokenizer.NAME: 240}
"""`params.vocab.max_length: auto` is at most this: one caption of a thousand words would make a thousand steps of a
whole batch."""


def get_tokenizer(name: str, place: str) -> Callable[[str], list[str]]:
    """The tokenizer of a name stored in the file `place`. Raises `ArtefactError` for an unknown name."""
    if name not in TOKENIZERS:
        raise ArtefactError(f"{place}: made with the unknown tokenizer {name!r}; run `dvc repro -f vocab`")
    return TOKENIZERS[name]


def join_tokens(tokens: Iterable[str]) -> str:
    """Tokens with single spaces between, as the metrics take them. A space that is a token is left out."""
    return " ".join(token for token in tokens if token != " ")
