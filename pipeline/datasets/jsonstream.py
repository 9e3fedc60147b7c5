"""The elements of the lists in a JSON file, one at a time: COCO's files have hundreds of megabytes, and their parsed
whole takes ten times that."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.datasets.text_files import AUTO, open_text
from pipeline.errors import DataError

_CHUNK = 1 << 18
_NEAR = 16
"""A mistake so near to the end of what was read can be a word or number that goes on."""


def elements(path: Path, wanted: Collection[str], encoding: str = AUTO) -> Iterator[tuple[str, int, Any]]:
    """(key, number, element) for each element of the lists under `wanted` keys of the outermost object, in the file's
    order and numbered from 1; number 0 announces a list. A file that is one list has it under the key "".

    Raises `DataError`, after the elements before the damage.
    """
    with open_text(path, encoding) as file:
        reader = _Reader(path, file)
        first = reader.peek()
        if first == "[":
            yield from reader.elements("", "" in wanted)
        elif first == "{":
            yield from _members(reader, wanted)
        else:
            raise DataError(f"{path}: not valid JSON: it begins with {first!r}, not with an object or a list")
        if reader.peek():
            raise reader.error("more text after the end")


def _members(reader: "_Reader", wanted: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    reader.take("{")
    if reader.peek() == "}":
        reader.take("}")
        return
    while True:
        key = reader.value()
        if not isinstance(key, str):
            raise reader.error("a key is not text")
        reader.take(":")
        if reader.peek() == "[":
            yield from reader.elements(key, key in wanted)
        else:
            reader.value()
        if reader.take(",", "}") == "}":
            return


class _Reader:
    """A window on the text, which moves on value by value."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.before = "", 0, 0
        self.ended = False
        self.place = ""
        self.decode = json.JSONDecoder(strict=False).raw_decode

    def elements(self, key: str, wanted: bool) -> Iterator[tuple[str, int, Any]]:
        self.take("[")
        if wanted:
            yield key, 0, None
        if self.peek() == "]":
            self.take("]")
            return
        number = 0
        while True:
            number += 1
            self.place = f" in element {number} of {key!r}" if key else f" in element {number}"
            value = self.value()
            if wanted:
                yield key, number, value
            if self.take(",", "]") == "]":
                self.place = ""
                return

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self.at < len(self.text):
                character = self.text[self.at]
                if character not in " \t\r\n":
                    return character
                self.at += 1
            if not self._more():
                return ""

    def take(self, *allowed: str) -> str:
        found = self.peek()
        if found not in allowed or not found:
            raise self.error(f"expected {' or '.join(map(repr, allowed))}, found {found!r}" if found else None)
        self.at += 1
        return found

    def value(self) -> Any:
        if not self.peek():
            raise self.error(None)
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _NEAR
                if unfinished and self._more():
                    continue
                raise self.error(None if unfinished and self.ended else error.msg) from error
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from error
            if end == len(self.text) and self._more():
                continue  # a number may go on
            self.at = end
            return value

    def error(self, reason: str | None) -> DataError:
        """`reason` None: the file ends too early."""
        place = f"{self.place} (character {self.before + self.at + 1})"
        if reason is None:
            return DataError(f"{self.path}: truncated: the file ends{place}; copy or download it again")
        return DataError(f"{self.path}: not valid JSON{place}: {reason}")

    def _more(self) -> bool:
        """Read on; each time twice as much, so that one long value is not parsed again and again."""
        self.before += self.at
        rest = self.text[self.at :]
        self.at = 0
        chunk = self.file.read(max(_CHUNK, len(rest)))
        self.text = rest + chunk
        self.ended = not chunk
        return bool(chunk)
