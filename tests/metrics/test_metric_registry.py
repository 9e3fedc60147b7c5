"""What every metric must do."""

import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES

from pipeline.metrics.registry import METRICS, TITLES

# Optional metrics are slow, and tested in files of their own.
every_metric = pytest.mark.parametrize("name", [name for name, entry in METRICS.items() if not entry.optional])


@pytest.fixture
def metric(name):
    return METRICS[name].load()


@every_metric
def test_statistics_have_a_row_per_image_and_scores_a_column_per_title(name, metric):
    statistics = metric.statistics(HYPOTHESES, REFERENCES)
    assert statistics.shape[0] == len(HYPOTHESES)
    assert metric.scores(statistics, 1).shape == (len(HYPOTHESES), len(METRICS[name].titles))


@every_metric
def test_scores_of_many_resamples_equal_those_of_each(name, metric):
    statistics = metric.statistics(HYPOTHESES, REFERENCES)
    sums = np.stack([statistics.sum(axis=0), 3 * statistics[0]])
    together = metric.scores(sums, 3)
    for row, expected in zip(sums, together, strict=True):
        np.testing.assert_allclose(metric.scores(row, 3), expected, rtol=1e-12)


@every_metric
def test_a_perfect_caption_scores_higher_than_a_wrong_one(name, metric):
    references = [["a dog runs on green grass"], ["two men play soccer outside"]]
    right = metric.scores(metric.statistics([texts[0] for texts in references], references).sum(axis=0), 2)
    wrong = metric.scores(metric.statistics(["zebras graze", "snow"], references).sum(axis=0), 2)
    assert np.all(right > wrong)


@every_metric
def test_an_empty_caption_has_finite_scores(name, metric):
    statistics = metric.statistics(["", "a dog"], [["a dog"], ["a dog"]])
    assert np.isfinite(metric.scores(statistics, 1)).all()
    assert np.isfinite(metric.scores(statistics.sum(axis=0), 2)).all()


def test_every_score_has_one_title():
    assert len(TITLES) == sum(len(entry.titles) for entry in METRICS.values())
