"""`captioner score`: the stage of dvc.yaml or, given a file, the scores of any captions against any references."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, aligned, announce_device, progress_bar, read, say
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.metrics.caption_files import CaptionFile, ReferenceFile
    from pipeline.metrics.evaluation import Evaluation

Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
Meteor = Annotated[bool, typer.Option("--meteor", help="Add METEOR (needs Java and the extra `meteor`).")]
SEED = 17
_COMMON = 0.5
"""The stage warns when more of the images than this have the same caption."""


def score(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Captions to score: COCO's results format, the lines of `predict --json`, or CSV. Without FILE the "
            "stage runs.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="COCO's annotations file, a JSON object with a list of captions per image, or CSV."),
    ] = None,
    subset: Annotated[bool, typer.Option("--subset", help="Score only the images that have a caption.")] = False,
    meteor: Meteor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    per_image: Annotated[Path | None, typer.Option(help="Write the scores of each image to this CSV file.")] = None,
    seed: Seed = SEED,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Caption a split and score it with BLEU, CIDEr-D and ROUGE-L; with FILE, score the captions in it."""
    if file is None:
        if references or subset or meteor or as_json or per_image:
            raise ParamsError(
                "score: --references, --subset, --meteor, --json and --per-image need a file of captions: "
                "captioner score FILE --references REFERENCES"
            )
        _score_split(params)
    else:
        _score_file(file, references, subset=subset, meteor=meteor, as_json=as_json, per_image=per_image, seed=seed)


def reference_file(captions: "CaptionFile", name: str, references: "ReferenceFile | None") -> "ReferenceFile":
    """The references given, or else those beside the captions. Raises `ParamsError` when there are none."""
    from pipeline.metrics.caption_files import ReferenceFile

    if references is not None:
        return references
    if captions.references is None:
        raise ParamsError(f"{name}: holds no references; name their file with --references")
    return ReferenceFile(captions.source, captions.references)


def _score_split(path: Path) -> None:
    from pipeline.stages.score import ScoreFiles
    from pipeline.stages.score import score as run

    params = read(path)
    announce_device(params.run.device)
    with progress_bar("score") as progress:
        report = run(ScoreFiles(), params, progress=progress)
    evaluation = report.evaluation
    without = f", {report.without_features} without features" if report.without_features else ""
    say(f"score: {evaluation.scores.images} images of the {params.score.split} split{without}")
    say(_scores_table(evaluation))
    common = evaluation.diversity["most_common_caption"]
    if common > _COMMON:
        say(f"warning: {common:.0%} of the images have the same caption: the decoder does not describe its images yet")


def _score_file(
    path: Path,
    references: Path | None,
    *,
    subset: bool,
    meteor: bool,
    as_json: bool,
    per_image: Path | None,
    seed: int,
) -> None:
    from pipeline.metrics.caption_files import match_captions, read_caption_file, read_reference_file
    from pipeline.metrics.evaluation import evaluate

    file = read_caption_file(path)
    known = reference_file(file, str(path), read_reference_file(references) if references else None)
    captions, texts = match_captions(file, known, subset=subset)
    if len(captions) < len(known.captions):
        say(f"warning: {len(known.captions) - len(captions)} images without a caption are not in these scores")
    evaluation = evaluate(captions, texts, seed=seed, meteor=meteor)
    if per_image:
        _write_per_image(per_image, evaluation)
    if as_json:
        print(json.dumps(evaluation.metrics(), indent=2))
        return
    print(f"{len(captions):,} captions, {sum(map(len, texts.values())):,} references\n")
    print(_scores_table(evaluation))
    print()
    print(_diversity_table(evaluation))
    print(f"\nBLEU: {evaluation.scores.signatures['bleu']}")


def _write_per_image(path: Path, evaluation: "Evaluation") -> None:
    from pipeline.files import write_csv
    from pipeline.metrics.caption_files import join_references

    scores = evaluation.scores.per_image
    rows = (
        (
            image,
            evaluation.captions[image],
            *(f"{values[index]:.4f}" for values in scores.values()),
            join_references(texts),
        )
        for index, (image, texts) in enumerate(evaluation.references.items())
    )
    write_csv(path, ("image", "caption", *scores, "references"), rows)


def _scores_table(evaluation: "Evaluation") -> str:
    """Each score with its interval."""
    from pipeline.metrics.registry import TITLES

    rows = [("", "score", "95% interval")]
    for name, value in evaluation.scores.corpus.items():
        low, high = evaluation.scores.intervals[name]
        rows.append((TITLES[name], f"{value:.1f}", f"{low:.1f} to {high:.1f}"))
    return aligned(rows, right={1, 2})


def _diversity_table(evaluation: "Evaluation") -> str:
    """The diversity statistics of the captions and of the references."""
    from pipeline.metrics.diversity import TITLES, formatted

    ours, theirs = evaluation.diversity, evaluation.reference_diversity
    rows = [("", "captions", "references")]
    rows += [
        (title, formatted(name, ours[name]), formatted(name, theirs[name]))
        for name, title in TITLES.items()
        if name in ours
    ]
    return aligned(rows, right={1, 2})
