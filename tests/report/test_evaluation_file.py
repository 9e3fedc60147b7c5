"""evaluation.json, which the score stage writes and the report stage reads."""

import pytest
from example_evaluations import make_evaluation

from pipeline.errors import ArtefactError
from pipeline.metrics.evaluation_file import EvaluationFile


@pytest.fixture
def written(tmp_path):
    evaluation = make_evaluation({"1": "a dog"}, {"1": ["a dog", "the dog"]}, attention=[[0.25] * 4])
    evaluation.write(tmp_path / "evaluation.json")
    return evaluation, tmp_path / "evaluation.json"


def test_what_is_written_is_read_again(written):
    evaluation, path = written
    assert EvaluationFile.read(path) == evaluation


@pytest.mark.parametrize("change", [('"format":1', '"format":2'), ('"split"', '"spilt"'), ("{", "[")])
def test_another_format_is_refused(written, change):
    _, path = written
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(ArtefactError, match=r"not the results of the score stage: .*; run `dvc repro -f score`"):
        EvaluationFile.read(path)
