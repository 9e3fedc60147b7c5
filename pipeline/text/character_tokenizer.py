"""Splits captions into characters, for any language, with or without spaces between words.

A token is what a reader sees as one character: a letter with its combining marks, an emoji with its modifiers.
Punctuation is dropped. A space is a token between letters of writing systems that have spaces.
"""

import unicodedata

from pipeline.text.writing_systems import is_written_without_spaces

NAME = "character"
_JOINER = "\u200d"


def tokenize(text: str) -> list[str]:
    """The lower-case characters of a caption, with `" "` between words."""
    tokens: list[str] = []
    open_token = False  # whether the next mark belongs to the last token
    for character in unicodedata.normalize("NFC", text.lower()):
        if character.isspace():
            if tokens and tokens[-1] != " " and not is_written_without_spaces(tokens[-1][0]):
                tokens.append(" ")
            open_token = False
        elif _extends(character):
            if open_token:
                tokens[-1] += character
        elif open_token and tokens[-1].endswith(_JOINER):
            tokens[-1] += character
        elif unicodedata.category(character)[0] in "PC":
            open_token = False
        else:
            if tokens and tokens[-1] == " " and is_written_without_spaces(character):
                tokens.pop()
            tokens.append(character)
            open_token = True
    if tokens and tokens[-1] == " ":
        tokens.pop()
    return tokens


def _extends(character: str) -> bool:
    """Whether the character belongs to the one before: a combining mark, a joiner, a skin tone."""
    return (
        unicodedata.category(character)[0] == "M" or character == _JOINER or "\U0001f3fb" <= character <= "\U0001f3ff"
    )
