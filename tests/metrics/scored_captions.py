"""Captions with the scores that pycocoevalcap 1.2 computed for them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Case:
    """Hypotheses and references with their scores."""

    name: str
    hypotheses: list[str]
    references: list[list[str]]
    bleu: list[float]
    """BLEU-1..4 of the whole set."""
    bleu_4: list[float]
    """For each image, like the next two."""
    cider_d: list[float]
    rouge_l: list[float]


FILE = Path(__file__).with_name("oracle.json")
every_case = pytest.mark.parametrize(
    "case",
    [Case(**case) for case in json.loads(FILE.read_text(encoding="utf-8"))],
    ids=lambda case: case.name,
)

REFERENCES = [
    [
        "a dog runs on the grass",
        "the brown dog is running on the green grass",
        "a dog running outside on grass",
    ],
    [
        "two men play soccer on a wide field",
        "two people are playing a game of soccer in a field",
    ],
    ["a child in a red coat is standing in the snow"],
]
HYPOTHESES = ["a brown dog is running", "two men play soccer in a field", "a child in a red coat is"]
SCORES = {
    "bleu_1": 72.9213,
    "bleu_2": 70.6057,
    "bleu_3": 67.5038,
    "bleu_4": 62.9483,
    "cider_d": 390.8887,
    "rouge_l": 70.9702,
}
"""Scores of `HYPOTHESES`, times 100."""

RAW_REFERENCES = {
    "0": ["A dog runs on the grass.", "The brown dog is running on the green grass.", "A dog running outside on grass"],
    "1": ["Two men play soccer on a wide field!", "Two people are playing a game of soccer in a field."],
    "2": ["A child, in a red coat, is standing in the snow."],
}
RAW_HYPOTHESES = {
    "0": "A brown dog is running.",
    "1": "two men play soccer in a field",
    "2": "a child in a red coat is",
}
"""The same captions by image, before tokenization."""
