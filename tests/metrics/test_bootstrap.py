import numpy as np
import pytest

from pipeline.metrics.bootstrap import intervals, paired_differences, resampled_sums


def per_image(images: int, mean: float = 0.5, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.1, images)


def mean_of(images: int):
    return lambda sums: sums / images


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    scores = per_image(2000)
    ((low, high),) = intervals(scores[:, None], mean_of(2000), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(2000), rel=0.06)


def test_a_resample_has_as_many_images_as_the_set():
    assert resampled_sums(np.ones((7, 1)), seed=0).tolist() == [[7.0]] * 1000


def test_every_column_uses_the_same_resamples():
    scores = per_image(30)
    alone = resampled_sums(scores[:, None], seed=5)
    beside = resampled_sums(np.column_stack([np.ones(30), scores]), seed=5)
    np.testing.assert_allclose(beside[:, 1:], alone, rtol=1e-12)


def test_swapping_the_systems_swaps_the_sign_and_keeps_the_p_value():
    first, second = per_image(100)[:, None], per_image(100, mean=0.51, seed=9)[:, None]
    ((difference, _, high, p_value),) = paired_differences(first, second, mean_of(100), seed=0)
    back = paired_differences(second, first, mean_of(100), seed=0)[0]
    assert back[0] == pytest.approx(-difference)
    assert back[1] == pytest.approx(-high)
    assert back[3] == p_value


def test_resamples_that_are_as_far_except_for_rounding_count():
    """Four of 300 images change by the same amount: resamples that draw eight or none of them are exactly as far."""
    first = np.random.default_rng(1).uniform(0, 1, 300)
    second = first.copy()
    second[:4] += 0.1
    ((_, _, _, p_value),) = paired_differences(first[:, None], second[:, None], mean_of(300), seed=5)
    drawn = resampled_sums((np.arange(300) < 4).astype(float)[:, None], seed=5)
    assert p_value == ((np.abs(drawn - 4) >= 4).sum() + 1) / 1001


def test_a_few_images_prove_nothing():
    """Of two equal systems, the second one is better on all of N images, or worse, with probability 2^(1-N)."""
    for images in (2, 3, 5):
        first = per_image(images)[:, None]
        assert paired_differences(first, first + 1, mean_of(images), seed=0)[0, 3] == 2.0 ** (1 - images)


def test_a_difference_too_small_to_print_is_not_significant():
    first = np.random.default_rng(1).uniform(0, 100, (50, 1))
    assert paired_differences(first, first + 1e-6, mean_of(50), seed=5)[0, 3] == 1


def test_p_values_are_uniform_when_there_is_no_difference(monkeypatch):
    """One in ten is below 0.1."""
    monkeypatch.setattr("pipeline.metrics.bootstrap.RESAMPLES", 200)
    generator = np.random.default_rng(0)
    pairs = generator.normal(0, 1, (400, 2, 40, 1))
    p_values = [
        paired_differences(first, second, mean_of(40), seed=seed)[0, 3] for seed, (first, second) in enumerate(pairs)
    ]
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.05)
