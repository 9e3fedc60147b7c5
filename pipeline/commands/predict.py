"""`captioner predict`: captions for files, folders, glob patterns and what comes on standard input."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands import image_inputs as sources
from pipeline.commands.runtime import DeviceOption, ModelOption, Runtime, RuntimeOption, load
from pipeline.commands.terminal import progress_bar, say
from pipeline.errors import DataError, ParamsError

if TYPE_CHECKING:
    from pipeline.inference.base_captioner import Answer, BaseCaptioner, Picture

_LONG = 100
"""So many pictures are long work, which shows how far it is even where there is no terminal."""


def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (with all below them), quoted glob patterns, or - for a picture or a list of paths "
            "on standard input."
        ),
    ],
    model: ModelOption = None,
    runtime: RuntimeOption = Runtime.torch,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture and line.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write a table: image, caption, score, error.")] = None,
    captions: Annotated[int, typer.Option("--num-captions", min=1, help="Captions per picture.")] = 1,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1, help="Captions kept in the search; 1 is greedy.", show_default="3; 10 to choose by neighbours"
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Choose the caption that agrees best with what people said of so many training pictures alike; 0: "
            "the likeliest.",
            show_default="60 where the model remembers them",
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Longest caption, in words.")] = 30,
    length_penalty: Annotated[
        float | None,
        typer.Option(min=0, help="0 favours short captions.", show_default="0.7; 1 to choose by neighbours"),
    ] = None,
    min_length: Annotated[int, typer.Option(min=0, help="Shortest caption, in words.")] = 0,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option(
            min=0, help="No sequence of so many words twice; 0: any.", show_default="what people seldom repeat"
        ),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw captions at random instead of searching.")] = False,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of --sample: below 1 is more cautious.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Of --sample: from so many likeliest words; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Of --sample: from the words of this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of --sample: the same seed draws the same captions.")] = 0,
    attention: Annotated[
        Path | None, typer.Option(help="Write a picture per picture into this folder: where the decoder looked.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures at a time; 1 answers each before the next is read.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Caption pictures with a trained model."""
    if str(csv) == sources.STDIN:
        raise ParamsError("--csv needs the name of a file; --json writes to standard output")
    found = {pattern: sources.matching(pattern) for pattern in pictures}
    missing = {pattern: sources.nothing_at(pattern) for pattern, files in found.items() if not files}
    files = [file for pattern in pictures for file in found[pattern] or [pattern]]
    total = None if sources.STDIN in files else len(files)
    if len(missing) == len(found):  # no model is needed to say so
        from pipeline.inference.base_captioner import Answer

        nothing = (Answer(pattern, error=missing[pattern]) for pattern in pictures)
        _write(nothing, total, csv=csv, as_json=as_json, scores=False)
        return
    captioner = load(model, runtime, device)
    penalty = {} if length_penalty is None else {"length_penalty": length_penalty}
    if sample:
        if beam is not None or neighbours is not None:
            raise ParamsError("--beam and --neighbours belong to the search; leave them out with --sample")
        search = captioner.make_sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            max_length=max_length,
            **penalty,
        )
    else:
        if (temperature, top_k, top_p, seed) != (1.0, 0, 1.0, 0):
            raise ParamsError("--temperature, --top-k, --top-p and --seed belong to --sample; give that too")
        given = {
            "beam_size": beam,
            "min_length": min_length or None,
            "no_repeat_ngram": no_repeat_ngram,
            "neighbours": neighbours,
        }
        search = captioner.make_search(
            max_length=max_length,
            **penalty,
            **{name: value for name, value in given.items() if value is not None},
        )
    answers = captioner.answers(
        sources.opened(files), search, captions=captions, attention=attention is not None, batch_size=batch_size
    )
    overlays = _Overlays(attention, captioner) if attention else None
    _write(_named(answers, missing), total, csv=csv, as_json=as_json, scores=captions > 1, overlays=overlays)


def _named(answers: "Iterable[Answer]", missing: Mapping[str, str]) -> "Iterator[Answer]":
    """The same, with what is to be said of arguments that mean no picture."""
    for answer in answers:
        yield replace(answer, error=missing.get(answer.image, answer.error)) if answer.error else answer


def _write(
    answers: "Iterable[Answer]",
    total: int | None,
    *,
    csv: Path | None,
    as_json: bool,
    scores: bool,
    overlays: "_Overlays | None" = None,
) -> None:
    """Each answer as it comes. Raises `DataError` at the end if a picture has no caption, or there was none."""
    with _table(csv) if csv else nullcontext() as table, _progress(total) as progress:
        done = bad = 0
        error = None
        for answer in answers:
            overlay = overlays.draw(answer) if overlays and not answer.error else None
            if answer.error:
                bad += 1
                error = answer.error
                if total != 1:
                    say(f"error: {error}")
            if table:
                for row in _rows(answer):
                    table(row)
            if as_json:
                print(_as_json(answer, overlay))
            elif not csv:
                for one in answer.captions:
                    score = f"{one.score:.3f}  " if scores else ""
                    print(f"{_shown(answer.image)}: {score}{one.text}")
            sys.stdout.flush()
            done += 1
            progress(done, total, "pictures")
    if not done:
        raise DataError("standard input: holds neither a picture nor the name of one")
    if csv:
        say(f"predict: {csv}, {done} pictures")
    if error:
        several = f"{bad} of {done} pictures could not be captioned; the lines above say why"
        raise DataError(error if total == 1 else several)


class _Overlays:
    """The folder that `--attention` names."""

    def __init__(self, folder: Path, captioner: "BaseCaptioner[Any]") -> None:
        self._folder = folder
        self._spec = captioner.spec
        self._taken: set[str] = set()

    def draw(self, answer: "Answer") -> Path:
        """Raises `DataError` when the decoder does not look."""
        from pipeline.files import write_bytes
        from pipeline.inference.attention_overlay import draw_attention

        picture: Picture = answer.image
        if answer.image == sources.STDIN:
            raise DataError("--attention: the picture on standard input has no name; give it as a file")
        stem = Path(answer.image).stem
        name, number = stem, 1
        while name in self._taken:  # pictures of one name in several folders
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        path = self._folder / f"{name}.png"
        if number > 1:
            say(f"note: {_shown(answer.image)} is {path}, for another picture has its name")
        write_bytes(path, draw_attention(picture, answer.captions[0], self._spec))
        return path


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    """A function that adds a row to the CSV file. An interruption keeps the rows that were done."""
    import csv

    from pipeline.files import replacing

    stopped: BaseException | None = None
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "caption", "score", "error"))
        try:
            yield writer.writerow
        except BaseException as error:
            stopped = error
    if stopped:
        raise stopped


@contextmanager
def _progress(total: int | None) -> Iterator[Any]:
    """A bar, unless the captions themselves run over the same terminal or the work is short."""
    if sys.stdout.isatty() or (total is not None and total < _LONG):
        yield lambda done, total, note="": None
        return
    with progress_bar("predict") as bar:
        yield bar


def _rows(answer: "Answer") -> list[tuple[str, ...]]:
    image = _shown(answer.image)
    if answer.error:
        return [(image, "", "", _shown(answer.error))]
    return [(image, one.text, f"{one.score:.4f}", "") for one in answer.captions]


def _as_json(answer: "Answer", overlay: Path | None) -> str:
    captions = [
        {"caption": one.text, "score": round(one.score, 4)}
        | ({} if one.agreement is None else {"agreement": round(one.agreement, 4)})
        for one in answer.captions
    ]
    content = {"image": _shown(answer.image), "captions": captions, "error": answer.error and _shown(answer.error)}
    return json.dumps(content | ({"attention": str(overlay)} if overlay else {}), ensure_ascii=False)


def _shown(text: str) -> str:
    """Names need not be UTF-8, output must be."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
