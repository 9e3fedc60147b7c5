"""Deterministic computation in one thread."""

from collections.abc import Iterator

import pytest

from pipeline.training.determinism import deterministic


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they save at the size of these tests."""
    with deterministic(1):
        yield
