"""The commands. The only file that prints, exits or draws progress; the work is done by what it calls.

Results go to standard output, everything else to standard error. Imports of torch and friends happen inside the
commands, so that `captioner --help` answers at once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline import __version__, paths
from pipeline.errors import CaptionerError, DataError, ParamsError

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.training.loop import Epoch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Image captioning on cached CNN features: train on a laptop, rerun to the same bytes.",
)

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
            yield lambda done, total, note="": bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            say(f"{title}: {done} of {total} {note}")

    yield line


def read(path: Path) -> "Params":
    from pipeline.params import read_params

    return read_params(path)


def announce_device(name: str) -> None:
    from pipeline.device import choose_device

    device = choose_device(name)
    say(f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))


def store_folder() -> Path:
    """Where features outlive every output: `$CAPTIONER_CACHE`, or the main repository's, also from a copy of it."""
    named = os.environ.get("CAPTIONER_CACHE")
    return Path(named) if named else Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "features"


@app.command(rich_help_panel="Stages of dvc.yaml")
def prepare(params: ParamsFile = paths.PARAMS) -> None:
    """Read a dataset's captions, find its pictures, and list what cannot be used."""
    from pipeline.stages.prepare import prepare as run

    given = read(params)
    with progress_bar("prepare") as progress:
        found = run(
            given.data,
            seed=given.seed,
            captions_out=paths.CAPTIONS,
            images_out=paths.IMAGES,
            skipped_out=paths.SKIPPED_ROWS,
            progress=progress,
        )
    for one in found.skipped[:5]:
        say(f"skipped: {one.file}, line {one.line}: {one.image or '(no name)'}: {one.reason}")
    if len(found.skipped) > 5:
        say(f"skipped: {len(found.skipped) - 5} more, all in {paths.SKIPPED_ROWS}")
    if found.images != Path(given.data.images):
        say(
            f"warning: the pictures are not in {given.data.images} but in {found.images}; "
            "set params.data.images so that dvc notices when they change"
        )
    splits = ", ".join(f"{count} {split}" for split, count in found.pictures.items())
    say(f"prepare: {sum(found.pictures.values())} images ({splits}), {found.captions} captions")


@app.command(rich_help_panel="Stages of dvc.yaml")
def extract(params: ParamsFile = paths.PARAMS) -> None:
    """Run the frozen encoder once over every picture that has no features yet."""
    from pipeline.stages.extract import extract as run

    given = read(params)
    announce_device(given.run.device)
    with progress_bar("extract") as progress:
        done = run(
            given.encoder,
            given.run,
            seed=given.seed,
            max_bad=given.data.max_bad,
            images=paths.IMAGES,
            skipped=paths.SKIPPED_ROWS,
            features_out=paths.FEATURES,
            encoder_out=paths.ENCODER,
            skipped_out=paths.SKIPPED,
            store=store_folder(),
            progress=progress,
        )
    for image, reason in list(done.unreadable.items())[:5]:
        say(f"skipped: {image}: {reason}")
    bad = f", {len(done.unreadable)} unreadable (see {paths.SKIPPED})" if done.unreadable else ""
    say(
        f"extract: {done.pictures} images, {done.from_store} from the store, "
        f"{done.encoded} encoded in {done.seconds:.1f} s{bad}"
    )


@app.command(rich_help_panel="Stages of dvc.yaml")
def vocab(params: ParamsFile = paths.PARAMS) -> None:
    """Count the words of the training captions."""
    from pipeline.stages.vocab import build_vocabulary

    built = build_vocabulary(read(params).vocab, captions=paths.CAPTIONS, vocabulary_out=paths.VOCABULARY)
    say(f"vocab: {built.tokens} tokens, which cover {built.val_coverage:.1%} of the words in the val captions")


@app.command(rich_help_panel="Stages of dvc.yaml")
def train(params: ParamsFile = paths.PARAMS) -> None:
    """Train the decoder on the cached features."""
    from pipeline.stages.train import train as run

    given = read(params)
    announce_device(given.run.device)

    def show(epoch: "Epoch") -> None:
        left = (given.train.epochs - epoch.epoch) * epoch.seconds
        say(
            f"epoch {epoch.epoch:3d}/{given.train.epochs}  loss {epoch.train_loss:.3f}  "
            f"val CIDEr-D {epoch.val_cider_d:5.1f}  {epoch.tokens_per_second:,.0f} tokens/s  at most {left:.0f} s left"
        )

    done = run(
        given.train,
        given.decoder,
        given.run,
        seed=given.seed,
        captions=paths.CAPTIONS,
        features=paths.FEATURES,
        vocabulary=paths.VOCABULARY,
        encoder=paths.ENCODER,
        model_out=paths.MODEL,
        curve_out=paths.TRAINING,
        on_epoch=show,
    )
    best = done.trained.best
    say(
        f"train: {done.captions} captions of {done.pictures} images, {done.parameters:,} parameters; "
        f"best of {done.trained.epochs} epochs: {best.epoch}, val CIDEr-D {best.val_cider_d:.1f}"
    )


@app.command(rich_help_panel="Stages of dvc.yaml")
def score(params: ParamsFile = paths.PARAMS) -> None:
    """Caption a split and score it: BLEU, CIDEr-D, ROUGE-L."""
    from pipeline.stages.score import NAMES, score_split

    given = read(params)
    announce_device(given.run.device)
    with progress_bar("score") as progress:
        result = score_split(
            given.score,
            given.run,
            seed=given.seed,
            captions=paths.CAPTIONS,
            images=paths.IMAGES,
            features=paths.FEATURES,
            model=paths.MODEL,
            curve=paths.TRAINING,
            scores_out=paths.SCORES,
            captions_out=paths.SCORED_CAPTIONS,
            report_out=paths.REPORT,
            progress=progress,
        )
    card = result.scorecard
    say(f"score: {card.pictures} images of the {given.score.split} split (95% interval)")
    for name, title in NAMES.items():
        low, high = card.intervals[name]
        say(f"  {title:8s} {card.scores[name]:6.1f}   {low:6.1f} to {high:.1f}")
    say(f"  look at {paths.REPORT}")


@app.command()
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) or glob patterns.")],
    model: Annotated[Path, typer.Option(help="The model file.")] = paths.MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture and line.")] = False,
    captions: Annotated[int, typer.Option("--num-captions", min=1, help="Captions per picture.")] = 1,
    beam: Annotated[int, typer.Option(min=1, help="Captions kept in the search; 1 is greedy.")] = 3,
    max_length: Annotated[int, typer.Option(min=1, help="Longest caption, in words.")] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Caption pictures with a trained model."""
    files = _find(pictures)
    from pipeline.decoders.search import Search
    from pipeline.predict import Captioner

    captioner = Captioner.load(model, device=device)
    bad = 0
    for answer in captioner.answers(files, Search(beam, max_length), captions=captions):
        if answer.error:
            bad += 1
            say(f"error: {answer.error}")
        if as_json:
            said = [{"caption": one.text, "score": round(one.score, 4)} for one in answer.captions]
            print(json.dumps({"image": str(answer.path), "captions": said, "error": answer.error}, ensure_ascii=False))
        else:
            for one in answer.captions:
                print(f"{answer.path}: {one.text}")
        sys.stdout.flush()
    if bad:
        raise DataError(f"{bad} of {len(files)} pictures could not be captioned; the lines above say why")


def _find(patterns: list[str]) -> list[Path]:
    """The files that are meant, in the order given. Raises `DataError` naming what matches nothing."""
    import glob

    from pipeline.features.images import SUFFIXES

    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.exists():
            found = [path]
        else:
            found = sorted(map(Path, glob.glob(pattern, recursive=True)))
        if not found:
            raise DataError(f"{pattern}: no picture there; give a file, a folder or a quoted glob pattern")
        files += found
    return files


@app.command()
def schema() -> None:
    """Print the JSON schema of params.yaml, from which editors complete and check it."""
    from pipeline.params import schema as make

    print(json.dumps(make(), indent=2))


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
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False) or 0
    except Stopped as stopped:
        message = f"{stopped.word}: features that were computed are kept; run the same command again to go on"
        code = _end(message, stopped.exit_code, debug)
    except CaptionerError as error:
        code = _end(_as_errors(str(error)), error.exit_code, debug)
    except BrokenPipeError:  # `captioner predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of click's: a defect of ours keeps its traceback
            raise
        code = _end(f"error: {error.format_message()}; see --help", ParamsError.exit_code, debug)
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
