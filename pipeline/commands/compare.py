"""`captioner compare A B`: the differences of two sets of captions, their p-values, and the captions that changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import paths
from pipeline.commands.score import (
    SEED,
    Meteor,
    Seed,
    UnitOption,
    few_images_warning,
    reference_file,
    tokenizer_of,
    warnings,
)
from pipeline.commands.terminal import aligned, say, show, show_json
from pipeline.errors import DataError, ParamsError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.datasets.caption_files import CaptionFile
    from pipeline.metrics.comparison import Comparison

_SIGNIFICANT = 0.05
_WORKSPACE = "workspace"
"""DVC's name for the files in the working folder."""
_HELP = f"A file of captions, or a revision: a commit, a branch, an experiment's name, `{_WORKSPACE}`."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_HELP)],
    second: Annotated[str, typer.Argument(metavar="B", help=_HELP)] = _WORKSPACE,
    references: Annotated[
        Path | None, typer.Option(help="References, if the files contain none (see `captioner score`).")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Number of changed captions to show.")] = 10,
    meteor: Meteor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every changed caption.")] = False,
    unit: UnitOption = None,
    seed: Seed = None,
) -> None:
    """Compare two runs on the same images: differences, p-values, and the captions that changed most."""
    from pipeline.datasets.caption_files import read_reference_file
    from pipeline.datasets.caption_matching import match_captions
    from pipeline.metrics.comparison import compare_captions

    given = read_reference_file(references) if references else None
    files = [_caption_file(name) for name in (first, second)]
    known = [reference_file(file, name, given) for file, name in zip(files, (first, second), strict=True)]
    matched = [match_captions(file, texts, subset=True) for file, texts in zip(files, known, strict=True)]
    say(*dict.fromkeys(f"note: {note}" for one in matched for note in one.notes))
    _refuse_other_references(known[0].captions, known[1].captions, names=(first, second))
    texts = {**known[1].captions, **known[0].captions}
    comparison = compare_captions(
        matched[0].captions,
        matched[1].captions,
        texts,
        seed=SEED if seed is None else seed,
        meteor=meteor,
        tokenize=tokenizer_of(unit, texts),
    )
    if comparison.left_out:
        left_out = counted(comparison.left_out, "image")
        say(f"warning: {left_out} left out: only one of the two files has their captions")
    neither = set(matched[0].missing) & set(matched[1].missing)
    if neither:
        say(f"warning: {counted(len(neither), 'image')} left out: neither of the two files has their captions")
    for name, side in ((first, comparison.first), (second, comparison.second)):
        say(*(f"{warning} ({name})" for warning in warnings(side)))
    say(*few_images_warning(comparison.first.scores.images))
    if as_json:
        show_json(_as_json(comparison), indent=2)
    else:
        _print_comparison(comparison, first, second, top)


def _caption_file(name: str) -> "CaptionFile":
    """The captions of a file, or those that a revision holds."""
    from pipeline.datasets.caption_files import parse_captions, read_caption_file

    if not name:
        raise ParamsError("an empty name; give a file or a revision")
    if Path(name).is_file():
        return read_caption_file(Path(name))
    if name == _WORKSPACE:
        if not paths.SCORED_CAPTIONS.is_file():
            raise DataError(f"{paths.SCORED_CAPTIONS}: no such file; run `dvc repro` in the project's folder first")
        return read_caption_file(paths.SCORED_CAPTIONS)
    if Path(name).suffix in {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt"}:
        raise DataError(f"{name}: no such file")
    return parse_captions(_read_revision(name, paths.SCORED_CAPTIONS), f"{paths.SCORED_CAPTIONS} of {name}")


def _read_revision(revision: str, path: Path) -> str:
    """The text of `path` in `revision` of the repository that holds the working folder.

    Raises `ParamsError` when there is no such revision, `DataError` when the revision has no such file.
    """
    import dvc.api
    from dvc.exceptions import DvcException, PathMissingError
    from dvc.scm import RevError, SCMError
    from scmrepo.exceptions import SCMError as GitError

    try:
        return str(dvc.api.read(path.as_posix(), rev=revision, encoding="utf-8"))
    except RevError as error:
        raise ParamsError(
            f"{revision}: neither a file nor a revision; give a file, a commit, a branch, `{_WORKSPACE}` or an "
            "experiment that `dvc exp show` lists"
        ) from error
    except (SCMError, GitError) as error:
        raise ParamsError(f"{revision}: no such file, and no git repository with commits: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} of revision {revision}: not UTF-8 at byte {error.start}") from error
    except (PathMissingError, FileNotFoundError) as error:
        raise DataError(f"{path}: not in revision {revision}; run `dvc repro score` there and commit it") from error
    except DvcException as error:
        raise DataError(f"{path} of revision {revision}: cannot be read: {error}") from error


def _refuse_other_references(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]], *, names: tuple[str, str]
) -> None:
    differing = [image for image in first if image in second and sorted(first[image]) != sorted(second[image])]
    if differing:
        raise DataError(
            f"{names[0]} and {names[1]} hold different references for {counted(len(differing), 'image')}, such "
            f"as {differing[0]}; name one file for both with --references"
        )


def _print_comparison(comparison: "Comparison", first: str, second: str, top: int) -> None:
    from pipeline.metrics.registry import TITLES

    images = comparison.first.scores.images
    show(f"{counted(images, 'image')}; A: {first}, B: {second}", "")
    rows = [("", "A", "B", "B - A", "95% interval", "p", "")]
    for name, change in comparison.differences.items():
        a, b = (f"{side.scores.corpus[name]:.1f}" for side in (comparison.first, comparison.second))
        rows.append(
            (
                TITLES[name],
                a,
                b,
                _signed(change.difference),
                "none"
                if change.low is None or change.high is None
                else f"{_signed(change.low)} to {_signed(change.high)}",
                "none" if change.p_value is None else f"{change.p_value:.3f}",
                _verdict(change.difference, change.p_value, equal=a == b),
            )
        )
    show(*aligned(rows, right={1, 2, 3, 4, 5}))
    better = sum(change.difference > 0 for change in comparison.changes)
    worse = sum(change.difference < 0 for change in comparison.changes)
    show(
        "",
        f"{len(comparison.changes):,} of {counted(images, 'caption')} changed; CIDEr-D is higher for {better:,} and "
        f"lower for {worse:,} of them",
    )
    for one in comparison.changes[:top]:
        show("", f"{one.image}  {_signed(one.difference)}")
        show(f"  A {one.first_score:6.1f}  {one.first}", f"  B {one.second_score:6.1f}  {one.second}")
        show(f"  ref      {one.references[0]}")


def _signed(value: float) -> str:
    """One decimal with a sign; zero is +0.0, never -0.0."""
    return f"{round(value, 1) + 0.0:+.1f}"


def _verdict(difference: float, p_value: float | None, *, equal: bool) -> str:
    """`equal`: the scores are the same as printed, so that a difference is too small to matter."""
    if equal or p_value is None or p_value >= _SIGNIFICANT:
        return "no clear difference"
    return "B is better" if difference > 0 else "A is better"


def _as_json(comparison: "Comparison") -> dict[str, Any]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4) + 0.0  # no -0.0

    return {
        "images": comparison.first.scores.images,
        "left_out": comparison.left_out,
        "first": comparison.first.metrics(),
        "second": comparison.second.metrics(),
        "differences": {
            name: {
                "difference": rounded(change.difference),
                "interval": None if change.low is None else [rounded(change.low), rounded(change.high)],
                "p_value": rounded(change.p_value),
            }
            for name, change in comparison.differences.items()
        },
        "changed": [
            {
                "image": change.image,
                "first": change.first,
                "second": change.second,
                "cider_d": [rounded(change.first_score), rounded(change.second_score)],
                "references": list(change.references),
            }
            for change in comparison.changes
        ],
    }
