"""How a long computation tells how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then with what is done out of the total (0: nobody knows it), in units that `note` may explain."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """The listener of those who do not listen."""
