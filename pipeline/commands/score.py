"""`captioner score`: the stage of dvc.yaml; or, given a file, anybody's captions against anybody's references."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import ParamsFile, aligned, announce_device, progress_bar, read, say
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.metrics.evaluation import Evaluation

Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap's draws of pictures.")]
Meteor = Annotated[bool, typer.Option("--meteor", help="METEOR too (needs Java and the extra `meteor`).")]
_SEED = 17
_SIGNS = {
    "distinct_captions": "distinct captions, of all",
    "most_common_caption": "pictures with the most common caption",
    "ends_in_function_word": "captions ending in a function word",
    "repeated_word": "captions with a word twice in a row",
    "repeated_phrase": "captions with three words said twice",
    "empty_captions": "empty captions",
}


def score(
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Captions to score: COCO's results format, the lines of `predict --json`, or CSV. Without it, the "
            "stage runs."
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="COCO's annotations file, an object with a list of captions per picture, or CSV."),
    ] = None,
    subset: Annotated[bool, typer.Option("--subset", help="Score the captioned pictures alone.")] = False,
    meteor: Meteor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    per_image: Annotated[Path | None, typer.Option(help="Write each picture's scores to this CSV file.")] = None,
    seed: Seed = _SEED,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Caption a split and score it (BLEU, CIDEr-D, ROUGE-L); or, with RESULTS, score a file of captions."""
    if results is None:
        if references or subset or meteor or as_json or per_image:
            raise ParamsError("score: these options are for a file of captions: captioner score FILE --references REFS")
        _stage(params)
    else:
        _file(results, references, subset=subset, meteor=meteor, as_json=as_json, per_image=per_image, seed=seed)


def _stage(params: Path) -> None:
    from pipeline.allocator import keep_freed_memory
    from pipeline.stages.score import score_split

    given = read(params)
    keep_freed_memory()
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
            bleu_out=paths.BLEU,
            lengths_out=paths.LENGTHS,
            report_out=paths.REPORT,
            card_out=paths.MODEL_CARD,
            progress=progress,
        )
    say(f"score: {result.evaluation.scores.pictures} images of the {given.score.split} split")
    say(scores_table(result.evaluation))
    common = result.evaluation.diversity["most_common_caption"]
    if common > 0.5:
        say(f"warning: {common:.0%} of the pictures have the same caption: the decoder has not learnt to see")
    say(f"look at {paths.REPORT}")


def _file(
    results: Path,
    references: Path | None,
    *,
    subset: bool,
    meteor: bool,
    as_json: bool,
    per_image: Path | None,
    seed: int,
) -> None:
    from pipeline.files import write_csv
    from pipeline.metrics.caption_files import References as Known
    from pipeline.metrics.caption_files import join_references, matched, read_references, read_results
    from pipeline.metrics.evaluation import evaluate

    found = read_results(results)
    if references is not None:
        known = read_references(references)
    elif found.references is not None:
        known = Known(found.place, found.references)
    else:
        raise ParamsError(f"{results}: holds no references; name their file with --references")
    captions, texts = matched(found, known, subset=subset)
    if len(captions) < len(known.captions):
        say(f"warning: {len(known.captions) - len(captions)} pictures without a caption are not in these scores")
    evaluation = evaluate(captions, texts, seed=seed, meteor=meteor)
    if per_image:
        scores = evaluation.scores.per_image
        write_csv(
            per_image,
            ("image", "caption", *scores, "references"),
            (
                (
                    image,
                    captions[image],
                    *(f"{values[place]:.4f}" for values in scores.values()),
                    join_references(known),
                )
                for place, (image, known) in enumerate(texts.items())
            ),
        )
    if as_json:
        print(json.dumps(evaluation.metrics(), indent=2))
        return
    number = sum(map(len, texts.values()))
    print(f"{len(captions):,} captions, {number:,} references\n")
    print(scores_table(evaluation))
    print()
    print(_signs_table(evaluation))
    print(f"\nBLEU: {evaluation.scores.signature}")


def scores_table(evaluation: "Evaluation") -> str:
    """The scores, each with its interval."""
    from pipeline.metrics.scores import NAMES

    rows = [("", "score", "95% interval")]
    for name, value in evaluation.scores.scores.items():
        low, high = evaluation.scores.intervals[name]
        rows.append((NAMES[name], f"{value:.1f}", f"{low:.1f} to {high:.1f}"))
    return aligned(rows, right={1, 2})


def _signs_table(evaluation: "Evaluation") -> str:
    """Signs of diversity beside those of the references."""
    ours, theirs = evaluation.diversity, evaluation.of_references
    rows = [("", "these", "references")]
    rows += [(title, f"{ours[name]:.1%}", f"{theirs[name]:.1%}") for name, title in _SIGNS.items()]
    for name, title, digits in (("distinct_words", "distinct words", 0), ("mean_length", "words per caption", 1)):
        rows.append((title, f"{ours[name]:.{digits}f}", f"{theirs[name]:.{digits}f}"))
    return aligned(rows, right={1, 2})
