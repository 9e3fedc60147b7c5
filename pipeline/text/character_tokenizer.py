"""Captions to characters, for languages that do not part words with spaces, and any other.

A token is what a reader sees as one character: a letter with the marks on it, an emoji with its modifiers. Case and
punctuation are dropped as they are from words. A space is a token between letters of scripts that have spaces.
"""

import unicodedata

from pipeline.text.writing_systems import is_written_without_spaces

NAME = "character"
_JOINER = "\u200d"


def tokenize(text: str) -> list[str]:
    """The lower-case characters of one caption; `" "` between words, never at an edge."""
    tokens: list[str] = []
    for character in text.lower():
        if tokens and (_extends(character) or tokens[-1].endswith(_JOINER)):
            tokens[-1] += character
        elif character.isspace():
            if tokens and tokens[-1] != " " and not is_written_without_spaces(tokens[-1][0]):
                tokens.append(" ")
        elif unicodedata.category(character)[0] not in "PC":
            if tokens and tokens[-1] == " " and is_written_without_spaces(character):
                tokens.pop()
            tokens.append(character)
    if tokens and tokens[-1] == " ":
        tokens.pop()
    return tokens


def _extends(character: str) -> bool:
    """Whether it belongs to the character before: a mark, a joiner, a skin tone."""
    if character.isascii():
        return False
    return (
        unicodedata.category(character)[0] == "M" or character == _JOINER or "\U0001f3fb" <= character <= "\U0001f3ff"
    )
