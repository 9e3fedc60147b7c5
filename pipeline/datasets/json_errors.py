"""Describes where and why a text is not JSON."""

import re
from json import JSONDecodeError

_WORDS = {
    "Expecting value": "a value is missing before",
    "Expecting property name enclosed in double quotes": "a key in double quotes is missing before",
    "Expecting ':' delimiter": "a colon is missing before",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing before",
    "Extra data": "unexpected text after the end:",
}
_CUT_VALUE = re.compile(r"[\w\\+.-]*")
"""The rest of a truncated text from the error on: nothing, or the start of a word, a number or an escape."""
_TRAILING_COMMA = re.compile(r",\s*([\]}])")
COMMENTS = ("//", "/*", "#")
"""The starts of comments in other formats."""
JSON_LINES = "JSON Lines has one object per line and the suffix .jsonl: `jq -c . FILE > FILE.jsonl`"
"""What JSON Lines needs, and the command that makes it from JSON objects over any number of lines."""
_SHOWN = 20
"""Characters of the text that a description holds."""


def describe_json_error(error: JSONDecodeError) -> str:
    """The place and the kind of the error: `line 3, column 9: not valid JSON: trailing comma before ]; remove it`."""
    text, place = error.doc, error.pos
    rest = text[place:].rstrip()
    if error.msg.startswith("Unterminated") or (error.msg != "Extra data" and _CUT_VALUE.fullmatch(rest)):
        return f"{_line_and_column(text, place)}: the JSON ends too early; copy or download the file again"
    if rest.startswith(COMMENTS):
        return f"{_line_and_column(text, place)}: not valid JSON: JSON has no comments; remove them"
    comma = len(text[:place].rstrip()) - 1 if text[:place].rstrip().endswith(",") else place
    if found := _TRAILING_COMMA.match(text, comma):
        return f"{_line_and_column(text, comma)}: not valid JSON: trailing comma before {found[1]}; remove it"
    shown = rest[:_SHOWN].splitlines()[0].encode(errors="replace").decode()
    problem = f"{_WORDS[error.msg]} {shown}" if error.msg in _WORDS else error.msg
    may_be_lines = error.msg == "Extra data" and rest.startswith("{")
    remedy = f"; {JSON_LINES}" if may_be_lines else ""
    return f"{_line_and_column(text, place)}: not valid JSON: {problem}{remedy}"


def _line_and_column(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}, column {place - text.rfind(chr(10), 0, place)}"
