"""Limits on the size and the number of concurrent requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException


@dataclass(frozen=True)
class Limits:
    """Limits on image files and concurrent requests."""

    max_bytes: int = 20_000_000
    """Largest image file."""
    max_requests: int = 64
    """Concurrent requests; more get HTTP 503."""
    max_waiting_bytes: int = 256_000_000
    """Image files in memory, together; more get HTTP 503."""


class Load:
    """Counts the concurrent requests and the bytes of their image files. All calls come from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def request(self, size: int) -> Iterator[None]:
        """Within the block, a request with an image file of `size` bytes counts.

        Raises `HTTPException` 503 for more than the limits allow. A single file may always be in memory.
        """
        too_many_bytes = self._bytes > 0 and self._bytes + size > self._limits.max_waiting_bytes
        if self._requests >= self._limits.max_requests or too_many_bytes:
            raise HTTPException(503, "too many concurrent requests; try again", headers={"Retry-After": "1"})
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def file(self, size: int) -> Iterator[None]:
        """Within the block, an image file of `size` bytes is in memory."""
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
