"""Scaling as matrix products gives the bytes that Pillow gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from pipeline.accel import resampling
from pipeline.accel.resampling import LOW, MAX_TAPS, PRECISION, can_resample, resample
from pipeline.encoders import images
from pipeline.encoders.spec import Preprocessing


def transform(size, shorter_side, interpolation):
    return Preprocessing(size, shorter_side, interpolation, (0.5,) * 3, (0.2,) * 3, (255,) * 3)


def noise(height, width, seed=0):
    """The hardest of pictures: black and white pixels side by side."""
    random = np.random.default_rng(seed)
    return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


def assert_equal(pixels, how):
    ours = resample(torch.from_numpy(pixels).unsqueeze(0), how)[0].numpy()
    assert np.array_equal(ours, images.fitted(Image.fromarray(pixels), how))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shorter_side", [None, 232, 256], ids=["squash", "crop 232", "crop 256"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(375, 500), (500, 375), (500, 333), (224, 224), (1200, 1601), (3000, 17), (17, 3000), (1, 1), (2, 900)],
)
def test_every_byte_is_pillows(height, width, shorter_side, interpolation):
    assert_equal(noise(height, width), transform(224, shorter_side, interpolation))


@settings(max_examples=60, deadline=None)
@given(
    some.integers(1, 400),
    some.integers(1, 400),
    some.integers(8, 96),
    some.none() | some.floats(1.0, 1.5),
    some.sampled_from(["bilinear", "bicubic"]),
)
def test_every_byte_is_pillows_whatever_the_sizes(height, width, size, wider, interpolation):
    how = transform(size, None if wider is None else round(size * wider), interpolation)
    assert_equal(noise(height, width, seed=height * width), how)


@pytest.mark.parametrize("at_once", [resampling.AT_ONCE, 2 * 3 * 60 * 90], ids=["all", "two and two"])
def test_pictures_of_one_shape_go_together(at_once, monkeypatch):
    monkeypatch.setattr(resampling, "AT_ONCE", at_once)
    several = np.stack([noise(60, 90, seed) for seed in range(5)])
    how = transform(32, 36, "bilinear")
    together = resample(torch.from_numpy(several), how)
    assert together.shape == (5, 32, 32, 3)
    for one, alone in zip(together, several, strict=True):
        assert np.array_equal(one.numpy(), images.fitted(Image.fromarray(alone), how))


def test_what_would_not_be_exact_is_left_to_pillow():
    how = transform(8, None, "bicubic")
    assert can_resample(how, 480, 480)
    assert not can_resample(how, 600, 10)
    assert not can_resample(how, 10, 600)
    assert not can_resample(transform(8, None, "nearest"), 20, 20)
    assert 255 * ((1 << LOW) - 1) * MAX_TAPS < 1 << 24  # the sums of low parts fit into a float32
    assert 255 * (1.5 * (1 << (PRECISION - LOW))) < 1 << 24  # and those of high parts, with what bicubic overshoots


def test_a_tall_picture_is_scaled_across_first_whatever_pillow_prefers():
    pixels = noise(400, 100)
    picture = Image.fromarray(pixels)
    across = picture.resize((64, 400), Image.Resampling.BICUBIC)
    expected = np.asarray(across.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(images.resize(picture, size=64, shorter_side=None, interpolation="bicubic"), expected)
    down_first = picture.resize((100, 64), Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    assert not np.array_equal(np.asarray(down_first), expected)
