"""Progress callbacks of long computations."""

from typing import Protocol


class Progress(Protocol):
    """A callback that is called now and then with the units done so far.

    `total` is 0 if it is unknown; `note` names the unit.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """A progress callback that does nothing."""
