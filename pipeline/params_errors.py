"""Error messages for wrong parameters: one line per key, with what is allowed and what the file holds."""

import difflib
from typing import Any

from pydantic import BaseModel

from pipeline.params import DECODER_MODELS, Params

_SHOWN = 80
"""Characters of a value that a message shows."""

RENAMED = {
    "data.max_bad": "data.max_skipped",
    "encoder.node": "encoder.layer",
    "decoder.word_dropout": "decoder.embedding_dropout",
    "train.average": "train.average_best",
    "train.remember": "train.store_captions",
    "score.neighbours": "score.rerank.neighbors",
    "score.consensus": "score.rerank.weight",
}
"""Keys of version 0.1 and their names since 0.2."""
REMOVED = {
    "decoder.tie_weights": "it improved no score",
    "decoder.layer_norm": "it improved no score",
    "run.extract_batch": "it changed neither results nor speed",
    "score.min_length": "captions have no minimum length",
}
"""Keys that were removed, and why."""
_ALLOWED = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a section with keys and values"),
    "string_pattern_mismatch": "must be auto, cpu, mps, cuda or cuda:N",
}
"""What is allowed, by the type of pydantic's error, where its message does not say it."""
_ALTERNATIVES = ("constrained-int", "literal[")
"""How pydantic's names for the alternatives of a union begin."""


def error_lines(mistakes: list[dict[str, Any]]) -> list[str]:
    """One line per wrong key: what is allowed and what it holds. Alternatives of a union share a line."""
    lines: dict[str, str] = {}
    for mistake in mistakes:
        key, allowed, got = _explained(mistake)
        lines[key] = f"{lines[key].removesuffix(got)} or {allowed}{got}" if key in lines else f"{key}: {allowed}{got}"
    return list(lines.values())


def _explained(mistake: dict[str, Any]) -> tuple[str, str, str]:
    """The key, what is allowed there, and what it holds."""
    location = _location(mistake)
    key = ".".join(["params", *map(_shown_key, location)])
    if mistake["type"] == "extra_forbidden":
        return key, _unknown(location), ""
    if mistake["type"] == "value_error":  # a rule between values, or a message of ours
        return key, mistake["msg"].removeprefix("Value error, "), ""
    if mistake["type"] == "union_tag_invalid":
        context = mistake["ctx"]
        return f"{key}.kind", f"must be one of {context['expected_tags']}", f", got {_shown(context['tag'])}"
    allowed = _ALLOWED.get(mistake["type"]) or mistake["msg"].removeprefix("Input ").replace("should ", "must ")
    return key, allowed, f", got {_shown(mistake['input'])}"


def _unknown(location: list[str]) -> str:
    name = ".".join(location)
    if name in RENAMED:
        return f"renamed; write {RENAMED[name]}"
    if name in REMOVED:
        return f"no longer exists, because {REMOVED[name]}; delete it"
    if "." in location[-1]:
        return "unknown parameter; write each part of the name on a line of its own, one level deeper than the last"
    known = _keys_beside(location)
    close = difflib.get_close_matches(location[-1], known, n=1)
    return "unknown parameter; " + (f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}")


def _location(mistake: dict[str, Any]) -> list[str]:
    """The key's path, without the names that pydantic adds for the alternatives of a union."""
    location = [str(part) for part in mistake["loc"]]
    if location[:1] == ["decoder"] and len(location) > 2:
        del location[1]
    if mistake["type"] != "extra_forbidden" and location[-1:] and location[-1].startswith(_ALTERNATIVES):
        location.pop()
    return location


def _keys_beside(location: list[str]) -> list[str]:
    if location[:1] == ["decoder"]:
        return list(dict.fromkeys(name for model in DECODER_MODELS.values() for name in model.model_fields))
    model: type[BaseModel] = Params
    for part in location[:-1]:
        section = model.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        model = section
    return list(model.model_fields)


def _shown_key(key: str) -> str:
    return shorten(key if key.isprintable() else repr(key))


def _shown(value: Any) -> str:
    try:
        return shorten(repr(value))
    except ValueError:  # Python does not write integers of thousands of digits
        return "a number of thousands of digits"


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
