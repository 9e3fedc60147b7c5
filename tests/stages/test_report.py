"""The score stage and the report stage on a small trained project."""

import json
import shutil
import subprocess
import sys

import pytest
from support import ROOT, run_command, run_stages

from pipeline import paths
from pipeline.inference.model_metadata import read_metadata
from pipeline.metrics.evaluation_file import EvaluationFile


@pytest.fixture(scope="module")
def scored(trained_project, tmp_path_factory):
    """A copy of the project after the stages score and report."""
    folder = shutil.copytree(trained_project, tmp_path_factory.mktemp("scored"), dirs_exist_ok=True)
    run_stages(folder, "score", "report")
    return folder


def test_score_writes_what_the_report_needs(scored):
    evaluation = EvaluationFile.read(scored / paths.EVALUATION)
    scores = json.loads((scored / paths.SCORES).read_text())
    assert scores["images"] == len(evaluation.images)
    assert scores["cider_d"] == pytest.approx(evaluation.scores["cider_d"].value, abs=1e-4)
    assert scores["without_features"] == 0
    for record in evaluation.images:
        assert len(record.attention) == len(record.caption.split())
        assert all(sum(weights) == pytest.approx(1, abs=0.01) for weights in record.attention)


def test_the_report_shows_every_caption(scored):
    page = (scored / paths.REPORT).read_text()
    evaluation = EvaluationFile.read(scored / paths.EVALUATION)
    assert page.count("<article") == len(evaluation.images)
    assert page.count("data-attention=") == len(evaluation.images)
    assert all(record.image in page for record in evaluation.images)
    assert "# Model card" in (scored / paths.MODEL_CARD).read_text()


def test_a_report_about_another_model_is_a_warning(scored, tmp_path):
    digest = EvaluationFile.read(scored / paths.EVALUATION).model.tensors_sha256
    assert digest == read_metadata(scored / paths.MODEL).tensors_sha256
    folder = shutil.copytree(scored, tmp_path / "copy")
    words = "warning: data/interim/evaluation.json is of another model than models/captioner.safetensors; run"
    assert words not in run_stages(folder, "report")["report"]
    results = folder / paths.EVALUATION
    text = results.read_text()
    results.write_text(text.replace(digest, digest[::-1]))
    assert words in run_stages(folder, "report")["report"]
    results.write_text(text.replace(f',"tensors_sha256":"{digest}"', ""))  # of an earlier version
    assert words not in run_stages(folder, "report")["report"]


def test_the_report_needs_no_torch(scored):
    code = (
        "import sys; from pipeline.stages.report import ReportFiles, report; report(ReportFiles()); "
        "print({'torch', 'torchvision', 'pandas', 'sacrebleu'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=scored,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "set()"


def test_without_results_the_report_names_the_command_that_makes_them(tmp_path):
    code, _, err = run_command("report", cwd=tmp_path)
    assert code == 3
    assert "evaluation.json: cannot be read" in err
    assert "run `dvc repro score` first" in err
