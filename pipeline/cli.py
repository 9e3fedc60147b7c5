"""The command line: which commands there are, and how each of them ends.

Only this file and `commands/` print, exit or draw progress; the work is done by what they call. torch and friends are
imported inside the commands, so that `captioner --help` answers at once.
"""

import gc
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from pipeline import __version__
from pipeline.commands import cache, compare, export, init, predict, schema, score, serve, stages, stats
from pipeline.commands.terminal import say
from pipeline.errors import CaptionerError, ParamsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Image captioning on cached CNN features: train on a laptop, rerun to the same bytes.",
)
for stage in (stages.prepare, stages.extract, stages.vocab, stages.train, score.score):
    app.command(rich_help_panel="Stages of dvc.yaml")(stage)
app.command()(init.init)
app.command()(predict.predict)
app.command()(serve.serve)
app.command()(export.export)
app.command()(compare.compare)
app.command()(stats.stats)
app.command()(schema.schema)
app.add_typer(cache.app, name="cache")


def _version(show: bool) -> None:
    if show:
        print(f"captioner {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options of every command."""


class Stopped(BaseException):
    """The process was asked to end: SIGINT (Ctrl-C) or SIGTERM."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        self.word = "interrupted" if number == signal.SIGINT else "terminated"


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def main() -> None:
    """Run the command line; every expected failure is one `error:` line and its own exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # Threads that wait by spinning starve each other wherever something else runs beside; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(10_000)  # loading torch makes many objects and no garbage: a tenth of a second less
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False) or 0
    except Stopped as stopped:
        message = f"{stopped.word}: features and epochs until now are kept; run the same command again to go on"
        code = _end(message, stopped.exit_code, debug)
    except CaptionerError as error:
        code = _end(_as_errors(str(error)), error.exit_code, debug)
    except BrokenPipeError:  # `captioner predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of click's: a defect of ours keeps its traceback
            raise
        said = error.format_message()  # nothing after a command without arguments, which has shown its help
        code = _end(f"error: {said}; see --help", ParamsError.exit_code, debug) if said else ParamsError.exit_code
    if "triton" not in sys.modules:  # which complains of what is left
        gc.freeze()  # nothing is worth collecting any more: half a second less once torch is loaded
    raise SystemExit(code)


def _as_errors(message: str) -> str:
    """Each mistake with its own `error:`; indented lines belong to the one above."""
    return "\n".join(line if line.startswith(" ") else f"error: {line}" for line in message.splitlines())


def _end(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    say(message)
    return code
