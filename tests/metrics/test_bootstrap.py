import numpy as np
import pytest
from scored_captions import HYPOTHESES, REFERENCES

from pipeline.metrics.bleu import bleu_scores, bleu_statistics
from pipeline.metrics.bootstrap import intervals, paired_differences, resampled_sums


def per_image(images: int, mean: float = 0.5, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.1, images)


def mean_of(images: int):
    return lambda sums: sums / images


def mean_interval(scores: np.ndarray, **options) -> tuple[float, float]:
    """The interval of the mean of the scores of single images."""
    return tuple(intervals(scores[:, None], mean_of(len(scores)), **options)[0])


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    scores = per_image(50)
    assert mean_interval(scores, seed=1) == mean_interval(scores, seed=1)
    assert mean_interval(scores, seed=1) != mean_interval(scores, seed=2)


def test_the_interval_contains_the_mean():
    low, high = mean_interval(per_image(200), seed=0)
    assert low < per_image(200).mean() < high


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    scores = per_image(2000)
    low, high = mean_interval(scores, seed=0, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(2000), rel=0.06)


def test_a_hundred_times_the_images_make_the_interval_ten_times_narrower():
    few, many = (np.subtract(*reversed(mean_interval(per_image(n), seed=0))) for n in (100, 10000))
    assert few / many == pytest.approx(10, rel=0.25)


def test_the_interval_of_bleu_contains_the_bleu_of_the_corpus():
    counts = bleu_statistics(HYPOTHESES * 20, REFERENCES * 20)
    bleu = bleu_scores(counts.sum(axis=0))
    bounds = intervals(counts, bleu_scores, seed=0)
    assert bounds.shape == (4, 2)
    assert np.all(bounds[:, 0] < bleu)
    assert np.all(bleu < bounds[:, 1])


def test_a_resample_has_as_many_images_as_the_set():
    assert resampled_sums(np.ones((7, 1)), seed=0, resamples=20).tolist() == [[7.0]] * 20


def test_resamples_draw_with_replacement():
    sums = resampled_sums(np.arange(7.0)[:, None], seed=0, resamples=20)
    assert len(np.unique(sums)) > 5


def test_every_column_uses_the_same_resamples():
    scores = per_image(30)
    alone = resampled_sums(scores[:, None], seed=5, resamples=50)
    beside = resampled_sums(np.column_stack([np.ones(30), scores]), seed=5, resamples=50)
    np.testing.assert_allclose(beside[:, 1:], alone, rtol=1e-12)


def test_a_system_does_not_differ_from_itself():
    scores = per_image(100)[:, None]
    assert paired_differences(scores, scores, mean_of(100), seed=0).tolist() == [[0, 0, 0, 1]]


def test_clearly_different_systems_have_a_small_p_value():
    first = per_image(100)[:, None]
    second = first + per_image(100, mean=0.05, seed=4)[:, None]
    ((difference, low, high, p_value),) = paired_differences(first, second, mean_of(100), seed=0)
    assert p_value <= 2 / 1001
    assert 0 < low < difference < high


def test_systems_that_differ_by_chance_have_a_large_p_value():
    noise = per_image(100, mean=0, seed=4)
    first = per_image(100)[:, None]
    ((*_, p_value),) = paired_differences(first, first + (noise - noise.mean() + 0.001)[:, None], mean_of(100), seed=0)
    assert p_value > 0.5


def test_swapping_the_systems_swaps_the_sign_and_keeps_the_p_value():
    first, second = per_image(100)[:, None], per_image(100, mean=0.51, seed=9)[:, None]
    ((difference, _, high, p_value),) = paired_differences(first, second, mean_of(100), seed=0)
    back = paired_differences(second, first, mean_of(100), seed=0)[0]
    assert back[0] == pytest.approx(-difference)
    assert back[1] == pytest.approx(-high)
    assert back[3] == p_value


def test_p_values_are_uniform_when_there_is_no_difference():
    """One in ten is below 0.1."""
    generator = np.random.default_rng(0)
    pairs = generator.normal(0, 1, (400, 2, 40, 1))
    p_values = [
        paired_differences(first, second, mean_of(40), seed=seed, resamples=200)[0, 3]
        for seed, (first, second) in enumerate(pairs)
    ]
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.05)


def test_systems_on_different_images_are_refused():
    with pytest.raises(ValueError, match=r"got \(3, 1\) and \(4, 1\)"):
        paired_differences(np.ones((3, 1)), np.ones((4, 1)), mean_of(3), seed=0)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        mean_interval(np.ones(0), seed=0)


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        mean_interval(np.ones(3), seed=0, resamples=0)
