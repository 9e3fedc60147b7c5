"""Fingerprints change with the meaning of a stage's code, and with nothing else."""

import pytest

from pipeline.errors import ParamsError
from pipeline.fingerprint import STAGE_PARAMS, Sources, combined, fingerprint, stage_parts
from pipeline.stages.code import code

TREE = {
    "__init__.py": "from pipeline.stages import other\n",
    "params.py": "SECTIONS = 1\n",
    "errors.py": "class Wrong(Exception): ...\n",
    "shapes/__init__.py": "",
    "shapes/registry.py": 'SHAPES = {"ring": "pipeline.shapes.ring:draw"}\n',
    "shapes/ring.py": "def draw(radius): return radius * 2\n",
    "shapes/templates/ring.svg": "<svg/>",
    "shapes/starter.safetensors": "weights",
    "shapes/unused.py": "x = 1\n",
    "shapes/types.py": "x = 1\n",
    "stages/__init__.py": "",
    "stages/vocab.py": '''"""The stage."""

from typing import TYPE_CHECKING

from pipeline.errors import Wrong
from pipeline import params
from pipeline.shapes.registry import SHAPES

if TYPE_CHECKING:
    from pipeline.shapes import types


class Stage:
    """A stage."""

    size: int = 1
    """Its size."""


def run():
    from pipeline.shapes import late

    return late
''',
    "shapes/late.py": "x = 1\n",
    "stages/other.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in TREE.items():
        path = tmp_path / "pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pipeline"


def parts(package):
    return stage_parts("vocab", Sources(package))


def changed(package, name, old, new):
    """Whether the fingerprint changes when `old` is replaced in a file."""
    before = parts(package)
    path = package / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    return combined(parts(package)) != combined(before)


def test_the_parts_are_the_import_closure_the_data_files_and_the_defaults(package):
    assert set(parts(package)) == {
        "pipeline.errors",
        "pipeline.shapes",
        "pipeline.shapes.late",
        "pipeline.shapes.registry",
        "pipeline.shapes.ring",
        "pipeline.stages",
        "pipeline.stages.vocab",
        "pipeline/shapes/templates/ring.svg",
        "defaults",
    }


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stages/vocab.py", "A stage.", "Another stage."),
        ("stages/vocab.py", "Its size.", "Its larger size."),
        ("stages/vocab.py", "def run():", "# a comment\ndef  run() :"),
        ("shapes/ring.py", "return radius * 2", "return (radius *\n 2)"),
        ("shapes/ring.py", "radius): return", 'radius):\n    """Draw."""\n    return'),
        ("shapes/unused.py", "1", "2"),
        ("shapes/types.py", "1", "2"),
        ("stages/other.py", "1", "2"),
        ("params.py", "1", "2"),
        ("shapes/starter.safetensors", "weights", "others"),
    ],
)
def test_what_cannot_change_a_result_keeps_the_fingerprint(package, name, old, new):
    assert not changed(package, name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("shapes/ring.py", "* 2", "* 3"),
        ("shapes/ring.py", "* 2", "* 2.0"),
        ("shapes/ring.py", "radius * 2", "2 * radius"),
        ("shapes/late.py", "1", "2"),
        ("stages/vocab.py", "size: int = 1", "size: int = True"),
        ("shapes/templates/ring.svg", "/>", "></svg>"),
    ],
)
def test_a_change_of_meaning_changes_the_fingerprint(package, name, old, new):
    assert changed(package, name, old, new)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(*, a=1, b): return a - b", "def f(*, a, b=1): return a - b"),
        ("def f(a, b): return {**a, 'k': b}", "def f(a, b): return {'k': a, **b}"),
    ],
)
def test_places_without_a_value_count(package, before, after):
    (package / "shapes/ring.py").write_text(before)
    assert changed(package, "shapes/ring.py", before, after)


def test_a_changed_default_changes_the_fingerprint_of_its_stage(monkeypatch):
    from pipeline import params

    before = {stage: fingerprint(stage) for stage in ("vocab", "prepare")}
    monkeypatch.setattr(params.Params.model_fields["vocab"], "default_factory", lambda: params.VocabParams(min_count=9))
    params.Params.model_rebuild(force=True)
    try:
        assert params.Params().vocab.min_count == 9
        assert fingerprint("vocab") != before["vocab"]
        assert fingerprint("prepare") == before["prepare"]
    finally:
        monkeypatch.undo()
        params.Params.model_rebuild(force=True)


def test_a_module_that_does_not_parse_is_named(package):
    (package / "shapes/ring.py").write_text("def draw(:\n")
    with pytest.raises(ParamsError, match=r"ring\.py, line 1: .*invalid syntax"):
        parts(package)


def test_the_stage_writes_one_file_per_stage(tmp_path):
    report = code(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(STAGE_PARAMS) == set(report)
    assert (tmp_path / "train.txt").read_text().startswith(f"{fingerprint('train')}  train\n")
