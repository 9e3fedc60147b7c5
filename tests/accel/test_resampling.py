"""Resizing by matrix products returns the bytes that Pillow returns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from pipeline.accel import resampling
from pipeline.accel.resampling import LOW_BITS, MAX_TAPS, WEIGHT_BITS, can_resample, resample
from pipeline.encoders import images
from pipeline.encoders.spec import Preprocessing


def preprocessing(size, shorter_side, interpolation):
    return Preprocessing(size, shorter_side, interpolation, (0.5,) * 3, (0.2,) * 3, (255,) * 3)


def noise(height, width, seed=0):
    """The hardest image: black and white pixels side by side."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


def assert_equal(pixels, how):
    ours = resample(torch.from_numpy(pixels).unsqueeze(0), how)[0].numpy()
    assert np.array_equal(ours, images.preprocess_image(Image.fromarray(pixels), how))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shorter_side", [None, 232, 256], ids=["stretch", "crop 232", "crop 256"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(375, 500), (500, 375), (500, 333), (224, 224), (1200, 1601), (3000, 17), (17, 3000), (1, 1), (2, 900)],
)
def test_every_byte_is_pillows(height, width, shorter_side, interpolation):
    assert_equal(noise(height, width), preprocessing(224, shorter_side, interpolation))


@settings(max_examples=60, deadline=None)
@given(
    some.integers(1, 400),
    some.integers(1, 400),
    some.integers(8, 96),
    some.none() | some.floats(1.0, 1.5),
    some.sampled_from(["bilinear", "bicubic"]),
)
def test_every_byte_is_pillows_at_any_size(height, width, size, wider, interpolation):
    how = preprocessing(size, None if wider is None else round(size * wider), interpolation)
    assert_equal(noise(height, width, seed=height * width), how)


@pytest.mark.parametrize("max_values", [resampling.MAX_VALUES, 2 * 3 * 60 * 90], ids=["all", "two at a time"])
def test_images_of_one_shape_are_resized_together(max_values, monkeypatch):
    monkeypatch.setattr(resampling, "MAX_VALUES", max_values)
    several = np.stack([noise(60, 90, seed) for seed in range(5)])
    how = preprocessing(32, 36, "bilinear")
    together = resample(torch.from_numpy(several), how)
    assert together.shape == (5, 32, 32, 3)
    for one, alone in zip(together, several, strict=True):
        assert np.array_equal(one.numpy(), images.preprocess_image(Image.fromarray(alone), how))


def test_cases_that_would_not_be_exact_are_left_to_pillow():
    how = preprocessing(8, None, "bicubic")
    assert can_resample(how, 480, 480)
    assert not can_resample(how, 600, 10)
    assert not can_resample(how, 10, 600)
    assert not can_resample(preprocessing(8, None, "nearest"), 20, 20)
    assert 255 * ((1 << LOW_BITS) - 1) * MAX_TAPS < 1 << 24  # the sums of low parts fit into a float32
    assert 255 * (1.5 * (1 << (WEIGHT_BITS - LOW_BITS))) < 1 << 24  # and those of high parts, with bicubic's overshoot
