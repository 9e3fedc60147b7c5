"""Control characters in captions, file names and words reach no terminal."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from support import run_command, small_params

from pipeline.commands.terminal import show_json
from pipeline.params_file import to_yaml
from pipeline.wording import CONTROL, visible

HOSTILE = ("\x1b[2J", "\x9b31m", "\u202e", "\x07", "\x7f")
"""Clear the screen, red text, reversed text, the bell, delete."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A trained project whose file names, captions and words hold control characters."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "data").mkdir()
    with (folder / "data/captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for number in range(12):
            evil = HOSTILE[number % len(HOSTILE)]
            name = f"{number}{HOSTILE[1 + number % 2]}.png"  # names with ASCII's control characters are skipped
            pixels = np.full((40, 40, 3), 20 * number, np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name)
            split = ("train", "train", "val", "test")[number % 4]
            writer.writerows([[name, f"one{evil} word{evil} red", split], [name, f"one{evil} {evil} blue", split]])
        writer.writerow(["missing\x1b.png", "not there", "train"])
        writer.writerow(["line\nerror: forged.png", "not there", "train"])
    data = {"captions": "data/captions.csv", "images": "data", "max_skipped": 0.5}
    (folder / "params.yaml").write_text(to_yaml(small_params(data=data, train={"epochs": 1})))
    return folder


def printed(project, *arguments, code=0):
    found, out, err = run_command(*arguments, cwd=project)
    assert found == code, err
    assert not CONTROL.search((out + err).replace("\n", "")), repr(out + err)
    assert "\nerror: forged" not in out + err
    return out + err


def test_no_command_prints_control_characters(project):
    printed(project, "init", "data")
    assert "missing\\x1b.png" in printed(project, "prepare")
    for stage in ("extract", "vocab", "train"):
        printed(project, stage)
    assert "missing\\x1b.png" in printed(project, "stats")
    printed(project, "stats", "--json")
    assert "\\x9b31m.png: " in printed(project, "predict", "data")
    printed(project, "predict", "data", "--json")
    assert "gone\\x1b.png" in printed(project, "predict", "gone\x1b.png", code=3)
    printed(project, "score")
    for name, word in (("a.jsonl", "red"), ("b.jsonl", "blue")):
        rows = [{"image": f"{n}\x1b[2J", "captions": [{"caption": f"one\x9b {word}"}]} for n in range(3)]
        (project / name).write_text("\n".join(map(json.dumps, rows)))
    references = {f"{n}\x1b[2J": ["one\x07 red"] for n in range(3)}
    (project / "references.json").write_text(json.dumps(references))
    assert "0\\x1b[2J" in printed(project, "compare", "a.jsonl", "b.jsonl", "--references", "references.json")
    printed(project, "compare", "a.jsonl", "b.jsonl", "--references", "references.json", "--json")


def test_params_hold_no_control_characters(project):
    file = project / "evil.yaml"
    for evil in HOSTILE:
        file.write_text(json.dumps({"data": {"captions": f"a{evil}"}}))
        assert "must not contain control characters" in printed(project, "params", "evil.yaml", code=2)
        file.write_text(json.dumps({f"data{evil}": {evil: evil}}))
        printed(project, "params", "evil.yaml", code=2)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_keeps_its_meaning(encoding, monkeypatch):
    content = {"caption": "\x1b\x7f\x9b\u202e\ud800é\n"}
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", output)
    show_json(content, indent=2)
    output.seek(0)
    text = output.read()
    assert not CONTROL.search(text.replace("\n", ""))
    assert json.loads(text) == content


def test_text_without_control_characters_is_unchanged():
    text = "naïve 犬 🐕 \u200dمرحبا"
    assert visible(text) == text
