"""What a decoder's tokens are: words or characters. A vocabulary names its tokenizer, and everything follows it."""

from collections.abc import Callable, Iterable

from pipeline.errors import ArtefactError
from pipeline.text import character_tokenizer as characters
from pipeline.text import ptb_tokenizer as tokenizer

UNITS = {"word": tokenizer.NAME, "character": characters.NAME}
"""The tokenizer's name by `vocab.unit`."""
MAX_TOKENS = {tokenizer.NAME: 60, characters.NAME: 240}
"""Longer training captions are cut: one of a thousand words would make a thousand steps of a whole batch."""


def get_tokenizer(name: str, place: str) -> Callable[[str], list[str]]:
    """Raises `ArtefactError` naming `place`, the file that asks for a tokenizer of another version."""
    known = {tokenizer.NAME: tokenizer.tokenize, characters.NAME: characters.tokenize}
    if name not in known:
        raise ArtefactError(f"{place}: made with tokenizer {name!r}; run `dvc repro -f vocab`")
    return known[name]


def join_tokens(tokens: Iterable[str]) -> str:
    """Tokens with single spaces between, as the metrics take them; a space itself is none."""
    return " ".join(token for token in tokens if token != " ")
