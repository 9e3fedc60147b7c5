"""What every command does with the terminal: results to standard output, all else to standard error."""

import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.params import Params

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters of the run.")]
_EVERY = 3.0
"""Seconds between two lines of progress where there is no terminal."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Any]:
    """A bar on a terminal, a plain line every few seconds elsewhere (dvc hides the terminal from its stages)."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total, note="": bar.update(task, completed=done, total=total or None)
        return
    last = time.monotonic()

    def line(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            say(f"{title}: {done}{f' of {total}' if total else ''} {note}")

    yield line


def read(path: Path) -> "Params":
    from pipeline.params import read_params

    return read_params(path)


def announce_device(name: str) -> None:
    from pipeline.device import choose_device

    device = choose_device(name)
    say(f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))


def checkpoint_folder() -> Path:
    """Where an interrupted training left off; in the main repository, also from a copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "training"


def store_folder() -> Path:
    """Where features outlive every output: `$CAPTIONER_CACHE`, or the main repository's, also from a copy of it."""
    named = os.environ.get("CAPTIONER_CACHE")
    return Path(named) if named else Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "features"


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Rows of text with their columns below each other; those numbered in `right` end at one edge."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def hash_cache_file() -> Path:
    """Where the sha256 of pictures that have not changed is remembered."""
    return store_folder() / "pictures.csv"


def unspaced_warning(share: float) -> str:
    """What to do where so large a share of the captions has no spaces between words."""
    return (
        f"warning: {share:.0%} of the captions are in a script that does not part words with spaces; "
        "set params.vocab.unit to character, params.score.max_length, which counts characters then, to 60 or so, "
        "and params.score.neighbours to 0"
    )
