"""Error messages for wrong parameters: one line per key, with what is allowed and what the file holds."""

import difflib
from collections.abc import Mapping
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
}


def without_old_keys(content: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """The content without keys and values of version 0.1, and a line for each of them."""
    lines = []
    known = dict(content)
    for old in (*RENAMED, *REMOVED):
        section, _, key = old.partition(".")
        values = known.get(section)
        if isinstance(values, Mapping) and key in values:
            known[section] = {name: value for name, value in values.items() if name != key}
            if old in RENAMED:
                lines.append(f"params.{old}: renamed; write {RENAMED[old]}")
            else:
                lines.append(f"params.{old}: no longer exists ({REMOVED[old]}); delete it")
    encoder = known.get("encoder")
    if isinstance(encoder, Mapping) and encoder.get("fit") == "squash":
        known["encoder"] = {**encoder, "fit": "stretch"}
        lines.append("params.encoder.fit: squash is renamed; write stretch")
    return known, lines


def error_lines(mistakes: list[dict[str, Any]]) -> list[str]:
    """One line per wrong key: what is allowed and what it holds. Alternatives of a union share a line."""
    lines: dict[str, str] = {}
    for mistake in mistakes:
        key, allowed, got = _explained(mistake)
        lines[key] = f"{lines[key].removesuffix(got)} or {allowed}{got}" if key in lines else f"{key}: {allowed}{got}"
    return list(lines.values())


def _explained(mistake: dict[str, Any]) -> tuple[str, str, str]:
    """The key, what is allowed there, and what it holds."""
    location = _location(mistake["loc"])
    key = ".".join(["params", *map(_shown_key, location)])
    if mistake["type"] == "extra_forbidden":
        known = _keys_beside(location)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return key, f"unknown parameter; {hint}", ""
    if mistake["type"] == "union_tag_invalid":
        kinds = list(DECODER_MODELS)
        allowed = f"must be {', '.join(map(repr, kinds[:-1]))} or {kinds[-1]!r}"
        return f"{key}.kind", allowed, f", got {_shown(mistake['ctx']['tag'])}"
    if mistake["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return key, "must be a section with keys and values", f", got {_shown(mistake['input'])}"
    if mistake["type"] == "string_pattern_mismatch":
        return key, "must be auto, cpu, mps, cuda or cuda:N", f", got {_shown(mistake['input'])}"
    message = mistake["msg"].removeprefix("Input ").replace("should ", "must ")
    if mistake["type"] == "value_error":  # a rule between values, or a message of ours
        return key, message.removeprefix("Value error, "), ""
    return key, message, f", got {_shown(mistake['input'])}"


def _location(parts: tuple[Any, ...]) -> list[str]:
    """The key's path, without the names that pydantic adds for the alternatives of a union."""
    location = [str(part) for part in parts]
    if location[:1] == ["decoder"] and len(location) > 2:
        del location[1]
    if location and (location[-1] in {"int", "float", "str", "constrained-int"} or location[-1].startswith("literal[")):
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
