"""Terminal output of the commands: results go to standard output, everything else to standard error.

Captions, file names and vocabularies may hold control characters. All output passes through this module, which makes
them visible.
"""

import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from pipeline.wording import CONTROL, visible

if TYPE_CHECKING:
    from pipeline.params import Params

ParamsFile = Annotated[Path, typer.Option("--params", help="Params file.")]
_EVERY = 3.0
"""Seconds between two progress lines without a terminal."""


def say(*lines: str) -> None:
    """Print lines to standard error; a line break within one is made visible, too."""
    try:
        for line in lines:
            print(visible(line), file=sys.stderr, flush=True)
    except BrokenPipeError:  # `captioner extract 2>&1 | head`: the work goes on without messages
        discard(sys.stderr)


def show(*lines: str) -> None:
    """Print lines to standard output; a line break within one is made visible, too."""
    for line in lines:
        print(visible(line))


def discard(stream: TextIO) -> None:
    """Discard what is still to be written to `stream`, so that Python reports no second error at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_json(content: Any, *, indent: int | None = None) -> None:
    """Print JSON to standard output. Control characters, and letters that its encoding may lack, are escaped."""
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    lines = json.dumps(content, indent=indent, ensure_ascii=not utf8).split("\n")  # breaks in strings are escaped
    show(*(CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in lines))


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
            say(f"{title}: {done:,}{f' of {total:,}' if total else ''} {note}")

    yield line


def read_params_file(path: Path) -> "Params":
    """Read a params file. Raises `ParamsError`."""
    from pipeline.params_file import read_params

    return read_params(path)


def announce_device(name: str) -> None:
    """Print the device that `params.run.device` resolves to. Raises `ParamsError`."""
    from pipeline.device import choose_device

    device = choose_device(name)
    say(f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return the lines of a text table with aligned columns, those in `right` to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
