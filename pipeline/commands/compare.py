"""`captioner compare A B`: is B better, by how much, how sure is that, and which captions changed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import paths
from pipeline.commands.score import Meteor, Seed
from pipeline.commands.terminal import aligned, say
from pipeline.errors import DataError, ParamsError

if TYPE_CHECKING:
    from pipeline.metrics.caption_files import References, Results
    from pipeline.metrics.evaluation import Comparison
    from pipeline.metrics.scores import Difference

_SEED = 17
_SURE = 0.05
_HELP = "A file of captions, or a revision: a commit, a branch, an experiment's name, `workspace`."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_HELP)],
    second: Annotated[str, typer.Argument(metavar="B", help=_HELP)] = "workspace",
    references: Annotated[
        Path | None, typer.Option(help="References, where the files hold none (see `captioner score`).")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the captions that changed most to show.")] = 10,
    meteor: Meteor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every changed caption.")] = False,
    seed: Seed = _SEED,
) -> None:
    """Compare two runs on the same pictures: differences, p-values, and the captions that changed most."""
    from pipeline.metrics.caption_files import read_references
    from pipeline.metrics.evaluation import compare_captions

    given = read_references(references) if references else None
    one, other = _side(first), _side(second)
    texts = [_references(side, name, given) for side, name in ((one, first), (other, second))]
    captions = [_by_key(side, known) for side, known in zip((one, other), texts, strict=True)]
    _refuse_other_references(*(known.captions for known in texts), names=(first, second))
    found = compare_captions(
        captions[0], captions[1], {**texts[1].captions, **texts[0].captions}, seed=seed, meteor=meteor
    )
    if found.left_out:
        say(f"warning: {found.left_out} pictures that only one of the two has are left out")
    if as_json:
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
        return
    _print(found, first, second, top)


def _side(name: str) -> "Results":
    """The captions of a file, or those that a revision committed."""
    from pipeline.commands.revisions import read_output
    from pipeline.metrics.caption_files import parse_results, read_results

    if Path(name).is_file():
        return read_results(Path(name))
    if Path(name).suffix in {".json", ".jsonl", ".csv"}:
        raise DataError(f"{name}: no such file")
    return parse_results(read_output(name, paths.SCORED_CAPTIONS), f"{paths.SCORED_CAPTIONS} of {name}")


def _references(side: "Results", name: str, given: "References | None") -> "References":
    from pipeline.metrics.caption_files import References

    if given is not None:
        return given
    if side.references is None:
        raise ParamsError(f"{name}: holds no references; name their file with --references")
    return References(side.place, side.references)


def _by_key(side: "Results", known: "References") -> dict[str, str]:
    """The captions under the references' names for the pictures."""
    from pipeline.metrics.caption_files import matched

    return matched(side, known, subset=True)[0]


def _refuse_other_references(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]], *, names: tuple[str, str]
) -> None:
    differing = [picture for picture in first if picture in second and tuple(first[picture]) != tuple(second[picture])]
    if differing:
        raise DataError(
            f"{names[0]} and {names[1]} were scored with other references for {len(differing)} pictures, such as "
            f"{differing[0]}; name one file for both with --references"
        )


def _print(found: "Comparison", first: str, second: str, top: int) -> None:
    from pipeline.metrics.scores import NAMES

    print(f"{found.first.scores.pictures:,} pictures; A: {first}, B: {second}\n")
    rows = [("", "A", "B", "B - A", "95% interval", "p", "")]
    for name, change in found.differences.items():
        rows.append(
            (
                NAMES[name],
                f"{found.first.scores.scores[name]:.1f}",
                f"{found.second.scores.scores[name]:.1f}",
                f"{change.difference:+.1f}",
                f"{change.low:+.1f} to {change.high:+.1f}",
                f"{change.p_value:.3f}",
                _verdict(change),
            )
        )
    print(aligned(rows, right={1, 2, 3, 4, 5}))
    better = sum(one.difference > 0 for one in found.changes)
    worse = sum(one.difference < 0 for one in found.changes)
    print(
        f"\n{len(found.changes):,} of {found.first.scores.pictures:,} captions changed: by CIDEr-D {better:,} for "
        f"the better, {worse:,} for the worse"
    )
    for one in found.changes[:top]:
        print(f"\n{one.picture}  {one.difference:+.1f}")
        print(f"  A {one.first_score:6.1f}  {one.first}")
        print(f"  B {one.second_score:6.1f}  {one.second}")
        print(f"  ref      {one.references[0]}")


def _verdict(change: "Difference") -> str:
    if change.p_value >= _SURE:
        return "not told apart"
    return "B is better" if change.difference > 0 else "A is better"


def _as_json(found: "Comparison") -> dict[str, Any]:
    return {
        "pictures": found.first.scores.pictures,
        "left_out": found.left_out,
        "first": found.first.metrics(),
        "second": found.second.metrics(),
        "differences": {
            name: {
                "difference": round(change.difference, 4),
                "interval": [round(change.low, 4), round(change.high, 4)],
                "p_value": round(change.p_value, 4),
            }
            for name, change in found.differences.items()
        },
        "changed": [
            {
                "image": change.picture,
                "first": change.first,
                "second": change.second,
                "cider_d": [round(change.first_score, 4), round(change.second_score, 4)],
                "references": list(change.references),
            }
            for change in found.changes
        ],
    }
