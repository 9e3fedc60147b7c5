"""dvc.yaml matches the code."""

import pytest
from ruamel.yaml import YAML
from support import ROOT

from pipeline import paths
from pipeline.fingerprint import PACKAGE, STAGE_PARAMS

STAGES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def entries(stage, *kinds):
    """Each path that a stage lists under `kinds`, with its options."""
    for kind in kinds:
        for entry in STAGES[stage].get(kind, []):
            yield next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})


def test_every_stage_is_a_module_and_the_code_stage_fingerprints_it():
    modules = {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {
        "__init__",
        "extract_on_ray",
        "import_features",
    }
    assert set(STAGES) == modules == {"code", *STAGE_PARAMS}


@pytest.mark.parametrize("stage", STAGE_PARAMS)
def test_a_stage_depends_on_its_own_fingerprint_and_on_no_other_code(stage):
    code = [path for path, _ in entries(stage, "deps") if "/code/" in path or "pipeline" in path]
    assert code == [f"{paths.CODE}/{stage}.txt"]


@pytest.mark.parametrize("stage", STAGE_PARAMS)
def test_a_fingerprint_covers_the_defaults_of_all_parameters_of_its_stage(stage):
    assert tuple(STAGES[stage].get("params", ())) == STAGE_PARAMS[stage]


def test_no_stage_depends_on_where_it_runs():
    assert not any(key.startswith("run") for keys in STAGE_PARAMS.values() for key in keys)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_code_of_its_checkout_and_has_a_description(stage):
    assert STAGES[stage]["cmd"] == f"python -m pipeline {stage}"
    assert STAGES[stage]["desc"]


def test_the_outputs_are_those_of_the_command_line():
    ours = {str(value) for name, value in vars(paths).items() if name.isupper()} - {str(paths.PARAMS)}
    assert {path for stage in STAGES for path, _ in entries(stage, "outs", "metrics")} == ours


def test_git_keeps_small_outputs_and_dvc_the_others():
    for stage in STAGES:
        for path, options in entries(stage, "outs", "metrics"):
            assert "persist" not in options
            in_git = path.startswith("metrics/") or path == str(paths.MODEL_CARD)
            in_git = in_git and path != str(paths.TRAINING)  # cached, so that DVC restores an earlier training
            assert (options.get("cache") is False) == in_git, path
