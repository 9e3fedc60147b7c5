"""dvc.yaml says what the code does."""

import pytest
from closure import PACKAGE, ROOT, closure
from ruamel.yaml import YAML

from pipeline import paths

PIPELINE = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
PARAMS = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
STAGES = PIPELINE["stages"]


def names(entries):
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage):
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipeline/")}
    assert declared == closure(PACKAGE / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_of_a_stage_exists(stage):
    for key in STAGES[stage]["params"]:
        value = PARAMS
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_no_stage_depends_on_where_it_runs():
    assert not any(key.startswith("run") for stage in STAGES.values() for key in stage["params"])


def test_stages_run_the_checkout_they_stand_in_and_say_what_they_do():
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m pipeline {name}"
        assert stage["desc"]


def test_outputs_are_those_of_the_command_line():
    ours = {str(value) for name, value in vars(paths).items() if name.isupper()} - {str(paths.PARAMS)}
    declared = set().union(
        *(names(stage.get("outs", [])) | names(stage.get("metrics", [])) for stage in STAGES.values())
    )
    assert declared == ours


def test_small_outputs_are_kept_by_git_and_none_persists():
    for stage in STAGES.values():
        for entry in [*stage.get("outs", []), *stage.get("metrics", [])]:
            name, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            assert "persist" not in options
            small = name.startswith("metrics/") or name == str(paths.MODEL_CARD)
            small = small and name != str(paths.TRAINING)  # so that dvc can bring an earlier training back whole
            assert (options.get("cache") is False) == small, name
