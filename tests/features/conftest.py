"""Fixtures of the tests of features."""

import pytest
from stand_in import draw


@pytest.fixture
def images(tmp_path):
    """Eleven small images."""
    return draw(tmp_path / "images")
