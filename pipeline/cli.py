"""The command line: its commands, and how each of them ends.

Only `commands/terminal.py` prints or draws progress, and only this module exits. Heavy libraries are imported inside
the commands, so that `captioner --help` answers at once.
"""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import typer

from pipeline import __version__
from pipeline.commands import (
    cache,
    code,
    compare,
    export,
    extract,
    import_features,
    init,
    params,
    predict,
    prepare,
    report,
    score,
    serve,
    stats,
    train,
    vocab,
)
from pipeline.commands.terminal import discard, say, show
from pipeline.errors import CaptionerError, DataError, DiskError, ParamsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train image captioning models on cached image features, score them, and caption images.",
)
STAGES: tuple[Callable[..., None], ...] = (
    code.code,
    prepare.prepare,
    extract.extract,
    vocab.vocab,
    train.train,
    score.score,
    report.report,
)
COMMANDS: tuple[Callable[..., None], ...] = (
    init.init,
    import_features.import_features,
    predict.predict,
    serve.serve,
    export.export,
    compare.compare,
    stats.stats,
    params.params,
    params.schema,
)
for stage in STAGES:
    app.command(rich_help_panel="Stages of dvc.yaml")(stage)
for command in COMMANDS:
    app.command()(command)
app.add_typer(cache.app, name="cache")


def _version(asked: bool) -> None:
    if asked:
        show(f"captioner {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


_KEPT = {
    "extract": ": encoded images are kept; run the same command again to continue",
    "train": ": finished epochs are kept; run the same command again to continue",
}
"""What an interrupted command prints beside the word."""


_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Of errors that name no file, as that of standard output; writing a file raises `DiskError`."""


_INACCESSIBLE = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Of paths that this user cannot look at, and that no file can have."""


class Stopped(BaseException):
    """The process received SIGINT (Ctrl-C) or SIGTERM."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        self.word = "interrupted" if number == signal.SIGINT else "terminated"


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def main() -> None:
    """Run the command line and exit. An expected failure prints one `error:` line per mistake and has its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # A closed stream would be None, and `print` would then write errors among the captions.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # a caption may have letters that a terminal lacks
    # Waiting OpenMP threads sleep instead of spinning, which slows down everything else. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = lambda message, *place: say(f"warning: {message}")
    raise SystemExit(_run(debug="--debug" in sys.argv))


def _run(*, debug: bool) -> int:
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except Stopped as stopped:
        command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
        return _end(stopped.word + _KEPT.get(command, ""), stopped.exit_code, debug)
    except CaptionerError as error:
        return _end(_error_lines(str(error)), error.exit_code, debug)
    except BrokenPipeError:  # `captioner predict ... | head`
        discard(sys.stdout)
        return 0
    except OSError as error:
        if error.errno in _INACCESSIBLE and error.filename is not None:
            return _end(f"error: {error.filename}: {error.strerror}; check the path", DataError.exit_code, debug)
        if error.filename is not None or error.errno not in _CANNOT_WRITE:
            raise
        discard(sys.stdout)
        return _end(f"error: standard output: cannot be written: {error.strerror}", DiskError.exit_code, debug)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not wrong usage, whose class depends on the version of typer
            raise
        # Empty without arguments, when the help was shown. "Value error" is a word of pydantic, which typer uses.
        message = error.format_message().removesuffix(".").replace(": Value error, ", ": ")
        return _end(f"error: {message}; see --help", ParamsError.exit_code, debug) if message else ParamsError.exit_code


def _error_lines(message: str) -> str:
    """Put `error:` before each line; indented lines belong to the line above."""
    lines = message.split("\n")
    return "\n".join(line if line.startswith(" ") else f"error: {line}" for line in lines)


def _end(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    say(*message.split("\n"))
    return code
