"""Terminal output of the commands: results go to standard output, everything else to standard error."""

import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.params import Params

ParamsFile = Annotated[Path, typer.Option("--params", help="Params file.")]
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, change the direction of text or cannot be printed."""
_EVERY = 3.0
"""Seconds between two progress lines without a terminal."""


def say(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """`text` in one line with control characters escaped: captions and file names may hold any."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)


@contextmanager
def progress_bar(title: str) -> Iterator[Any]:
    """Context manager: yields a progress callback. It draws a bar on a terminal, else a line every few seconds."""
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
    """Read a params file. Raises `ParamsError`."""
    from pipeline.params import read_params

    return read_params(path)


def announce_device(name: str) -> None:
    """Print the device that `params.run.device` resolves to. Raises `ParamsError`."""
    from pipeline.device import choose_device

    device = choose_device(name)
    say(f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))


def checkpoint_folder() -> Path:
    """Return the folder of training checkpoints. DVC's temporary copies share that of the main repository."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "training"


def store_folder() -> Path:
    """Return the folder of the feature store: `$CAPTIONER_CACHE`, else one that copies of a repository share."""
    named = os.environ.get("CAPTIONER_CACHE")
    return Path(named) if named else Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "features"


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Align the columns of a text table, those in `right` to the right."""
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
    """Return the file that caches the sha256 of unchanged images."""
    return store_folder() / "images.csv"


def unspaced_warning(share: float) -> str:
    """Return the warning for captions whose language has no spaces between words; `share` is their share."""
    return (
        f"warning: {share:.0%} of the captions are in a script without spaces between words; set params.vocab.unit to "
        "character, params.score.max_length to about 60 (it then counts characters), and "
        "params.score.rerank.neighbors to 0"
    )
