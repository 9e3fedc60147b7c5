"""`captioner predict`: captions for files, folders, glob patterns and standard input."""

import csv
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.feature_inputs import caption_rows, find_rows
from pipeline.commands.image_inputs import ATTENTION_MAP, STDIN, find_images, problem_of, read_inputs
from pipeline.commands.output_table import check_output_table
from pipeline.commands.runtime import DeviceOption, ModelOption, Runtime, RuntimeOption, load_captioner
from pipeline.commands.terminal import progress_bar, say, show, show_json
from pipeline.decoders.limits import MAX_BEAM_SIZE, MAX_LENGTH
from pipeline.errors import DataError, DiskError, ParamsError
from pipeline.progress import Progress, no_progress
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.features.feature_file import FeatureFile
    from pipeline.inference.base_captioner import BaseCaptioner, GenerationOptions, Prediction

_STEM_BYTES = 200
"""Longest name of an attention map without its suffix; file systems allow about 255 bytes in all."""
_PROGRESS_FROM = 100
"""Images from which progress is shown without a terminal."""
_COLUMNS = ("image", "caption", "score", "familiarity", "error")
WriteRow = Callable[[Sequence[str]], None]


def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="Files, folders, quoted glob patterns, or - for an image or a list of paths on stdin."),
    ],
    features: Annotated[
        Path | None,
        typer.Option(help="Caption rows of this feature file; the arguments are image ids or quoted glob patterns."),
    ] = None,
    model: ModelOption = None,
    runtime: RuntimeOption = "torch",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image and line.")] = False,
    csv: Annotated[
        Path | None, typer.Option(help="Write a table with the columns image, caption, score, familiarity, error.")
    ] = None,
    captions: Annotated[
        int,
        typer.Option(
            "--num-captions", min=1, max=MAX_BEAM_SIZE, help="Different captions per image; with --sample, samples."
        ),
    ] = 1,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_BEAM_SIZE,
            help="Beam size, at least --num-captions; 1 is greedy search.",
            show_default="5; 10 with re-ranking",
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Re-rank with the captions of this many nearest training images; 0: no re-ranking.",
            show_default="60 if the model stores its training captions",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_LENGTH, help="Longest caption, in tokens.", show_default="the longest that was trained on"
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Divide log-probabilities by the length to this power; 0 favors short captions.",
            show_default="1",
        ),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Repeat no sequence of this many tokens; 0 allows all.",
            show_default="by the training captions",
        ),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Sample captions instead of searching.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.01, max=100, help="With --sample: below 1 favors likely tokens.", show_default="1"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="With --sample: only the k most probable tokens; 0: all.", show_default="0"),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="With --sample: only the most probable tokens, up to this total probability.",
            show_default="1",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With --sample: the same seed gives the same captions.", show_default="0")
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(help="Folder for attention maps: NAME.attention.png for each image, a tile per token."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Images per batch; 1 prints each caption before the next image is read."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Caption images with a trained model."""
    files, missing, rows = _inputs(images, features, runtime, attention)
    if attention and attention.exists() and not attention.is_dir():
        raise ParamsError(f"--attention {attention}: a file; name a folder")
    if csv:
        check_output_table("--csv", csv, ",".join(_COLUMNS), (*files, features, model))
    nothing_found = missing.keys() >= set(images)
    if csv and nothing_found and csv.exists():
        say(f"note: {csv} is unchanged: no argument names an image")
        csv = None
    total = None if STDIN in files else len(files)
    output = _Output(total, csv=csv, as_json=as_json, scores=captions > 1)
    if nothing_found:  # needs no model
        from pipeline.inference.base_captioner import Prediction

        return output.write(Prediction(pattern, error=missing[pattern]) for pattern in images)
    captioner = load_captioner(model, runtime, device, encoder=rows is None)
    options = _options(
        captioner,
        sample=sample,
        lengths=_given(max_length=max_length, length_penalty=length_penalty),
        search=_given(beam_size=beam, neighbors=neighbors, no_repeat_ngram=no_repeat_ngram),
        sampling=_given(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
    )
    if rows is not None:
        predictions = caption_rows(captioner, rows, files, options, captions=captions, batch_size=batch_size)
    else:
        predictions = captioner.stream(
            read_inputs(files, missing),
            options,
            captions=captions,
            attention=attention is not None,
            batch_size=batch_size,
        )
    output.write(_with_messages(predictions, missing), _AttentionMaps(attention, captioner) if attention else None)


def _inputs(
    images: list[str], features: Path | None, runtime: Runtime, attention: Path | None
) -> "tuple[list[str], dict[str, str], FeatureFile | None]":
    """The images that the arguments name, the error of each argument that names none, and the opened feature file."""
    if features is None:
        rows, problem = None, "no image found; give a file, a folder or a quoted glob pattern"
        found = {pattern: find_images(pattern) for pattern in images}
    else:
        if runtime != "torch" or attention is not None or STDIN in images:
            raise ParamsError("--features: not with --runtime onnx, --attention or -; leave one of them out")
        from pipeline.features.feature_file import FeatureFile

        rows = FeatureFile.open(features)
        problem = f"no such image id in {features}; give an id or a quoted glob pattern"
        found = {pattern: find_rows(pattern, rows) for pattern in images}
    missing = {pattern: problem_of(pattern) or f"{pattern}: {problem}" for pattern, files in found.items() if not files}
    return [file for pattern in images for file in found[pattern] or [pattern]], missing, rows


def _given(**options: float | None) -> dict[str, Any]:
    """The options that are given; the model has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _options(
    captioner: "BaseCaptioner",
    *,
    sample: bool,
    lengths: Mapping[str, Any],
    search: Mapping[str, Any],
    sampling: Mapping[str, Any],
) -> "GenerationOptions":
    """The options of sampling or of the search. Raises `ParamsError` for those of the other one."""
    if sample and search:
        raise ParamsError(
            "--beam, --neighbors and --no-repeat-ngram are options of the search; leave them out with --sample"
        )
    if sampling and not sample:
        raise ParamsError("--temperature, --top-k, --top-p and --seed need --sample; add it, or leave them out")
    if sample:
        return captioner.sampling_options(**lengths, **sampling)
    return captioner.generation_options(**lengths, **search)


def _with_messages(predictions: "Iterable[Prediction]", problems: Mapping[str, str]) -> "Iterator[Prediction]":
    """The predictions, with better errors for inputs that cannot be images."""
    for one in predictions:
        if one.error:
            reason = f"standard input: {one.error}" if one.image == STDIN else one.error
            one = replace(one, error=problems.get(one.image, reason))
        yield one


class _Output:
    """Writes predictions to standard output or a table, and their errors to standard error."""

    def __init__(self, total: int | None, *, csv: Path | None, as_json: bool, scores: bool) -> None:
        self._total = total
        self._csv = csv
        self._as_json = as_json
        self._scores = scores
        self._unfamiliar = 0

    def write(self, predictions: "Iterable[Prediction]", attention: "_AttentionMaps | None" = None) -> None:
        """Each prediction as it comes. Raises `DataError` at the end if an image failed, or if there was none."""
        from pipeline.inference.familiarity import UNFAMILIAR

        done, errors = 0, []
        with _table(self._csv) if self._csv else nullcontext() as row, _progress(self._total) as progress:
            for one in predictions:
                if one.error:
                    errors.append(one.error)
                    if self._total != 1:
                        say(f"error: {one.error}")
                self._write_one(one, row, attention)
                done += 1
                progress(done, self._total or 0, "images")
            if not done:
                raise DataError("standard input: no image and no path; pipe an image or a list of paths")
        if self._csv:
            say(f"predict: {self._csv}, {counted(done, 'image')}")
        if self._unfamiliar and (self._csv or self._as_json):
            say(
                f"warning: {self._unfamiliar:,} of {counted(done, 'image')} {'is' if self._unfamiliar == 1 else 'are'} "
                f"unlike the training images (familiarity below {UNFAMILIAR:.0%}); their captions are probably wrong"
            )
        if errors and done == 1 and self._total is None:
            raise typer.Exit(DataError.exit_code)  # its only line is printed
        if errors:
            summary = f"{len(errors):,} of {counted(done, 'image')} could not be captioned; the reasons are above"
            raise DataError(errors[0] if self._total == 1 else summary)

    def _write_one(self, one: "Prediction", row: WriteRow | None, attention: "_AttentionMaps | None") -> None:
        from pipeline.inference.familiarity import describe_unfamiliar

        if one.captions and not one.captions[0].text:
            say(f"warning: {one.image}: the caption is empty")
        if warning := describe_unfamiliar(one.familiarity):
            self._unfamiliar += 1
            if not (self._csv or self._as_json):  # which have the number, and one line at the end
                say(f"warning: {one.image}: {warning}")
        attention_map = attention.draw(one) if attention and not one.error else None
        if row:
            for cells in _rows(one):
                row(cells)
        if self._as_json:
            show_json(_to_json(one, attention_map))
        elif not self._csv:
            for caption in one.captions:
                score = f"{caption.score:.3f}  " if self._scores else ""
                show(f"{one.image}: {score}{caption.text}")
        sys.stdout.flush()


class _AttentionMaps:
    """The folder that `--attention` names."""

    def __init__(self, folder: Path, captioner: "BaseCaptioner") -> None:
        self._folder = folder
        self._spec = captioner.spec
        self._names: set[str] = set()
        self._letters_missed = False

    def draw(self, prediction: "Prediction") -> Path:
        """Write the attention map of an image. Raises `DataError` when the decoder has no attention weights."""
        from pipeline.files import write_bytes
        from pipeline.inference.attention_overlay import draw_attention, find_font

        if prediction.image == STDIN:
            raise DataError("--attention: the image on standard input has no name; give it as a file")
        stem = Path(prediction.image).stem
        if len(os.fsencode(stem)) > _STEM_BYTES:
            stem = os.fsencode(stem)[:_STEM_BYTES].decode(errors="ignore") or "image"
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        name = next(name for name in names if name not in self._names)  # files of the same name in several folders
        self._names.add(name)
        path = self._folder / f"{name}{ATTENTION_MAP}"
        if name != Path(prediction.image).stem:
            say(f"note: the attention map of {prediction.image} is {path}; its own name is taken or too long")
        write_bytes(path, draw_attention(prediction.image, prediction.captions[0], self._spec))
        if not self._letters_missed and find_font(prediction.captions[0]) is None:
            self._letters_missed = True
            say(
                "note: no font with all letters of the captions was found; boxes in the attention maps stand for "
                "missing letters"
            )
        return path


@contextmanager
def _table(path: Path) -> Iterator[WriteRow]:
    """A function that adds a row to the CSV file, which may be named by a symbolic link.

    An interruption or an error keeps the rows so far, except when the disk is full: then an older table is kept, as it
    is when there is no row.
    """
    from pipeline.files import replacing

    stopped: BaseException | None = None
    rows = 0
    target = Path(os.path.realpath(path))  # unlike Path.resolve(), it accepts a link to itself
    with replacing(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode) | stat.S_IWUSR)  # the rows are still to be written
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)

        def write(cells: Sequence[str]) -> None:
            nonlocal rows
            rows += 1
            try:
                writer.writerow(cells)
            except OSError as error:
                raise DiskError(f"{path}: cannot be written: {error.strerror}; an older table is unchanged") from error

        try:
            yield write
        except DiskError:
            raise
        except BaseException as error:
            if not rows:
                raise
            stopped = error
    if stopped:
        raise stopped


def _progress(total: int | None) -> AbstractContextManager[Progress]:
    """A progress bar, unless captions are printed to the same terminal or there are few images."""
    if sys.stdout.isatty() or (total is not None and total < _PROGRESS_FROM):
        return nullcontext(no_progress)
    return progress_bar("predict")


def _rows(prediction: "Prediction") -> list[tuple[str, ...]]:
    image = _utf8(prediction.image)
    if prediction.error:
        return [(image, "", "", "", _utf8(prediction.error))]
    familiarity = "" if prediction.familiarity is None else f"{prediction.familiarity:.4f}"
    return [(image, caption.text, f"{caption.score:.4f}", familiarity, "") for caption in prediction.captions]


def _to_json(prediction: "Prediction", attention_map: Path | None) -> dict[str, Any]:
    captions = [
        {"caption": caption.text, "score": round(caption.score, 4)}
        | ({} if caption.agreement is None else {"agreement": round(caption.agreement, 4)})
        for caption in prediction.captions
    ]
    return {
        "image": _utf8(prediction.image),
        "captions": captions,
        "familiarity": None if prediction.familiarity is None else round(prediction.familiarity, 4),
        "error": prediction.error and _utf8(prediction.error),
    } | ({"attention": _utf8(str(attention_map))} if attention_map else {})


def _utf8(text: str) -> str:
    """A text in which each byte of a file name that is not UTF-8 is escaped as on the terminal: `\\udce9` for 0xe9."""
    return text.encode(errors="backslashreplace").decode()
