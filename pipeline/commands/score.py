"""`captioner score`: the stage of dvc.yaml or, given a file, the scores of any captions against any references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline import paths
from pipeline.commands.notes import UNSPACED, dropped_letters_warning, without_features_warning
from pipeline.commands.output_table import check_output_table
from pipeline.commands.terminal import (
    ParamsFile,
    aligned,
    announce_device,
    progress_bar,
    read_params_file,
    say,
    show,
    show_json,
)
from pipeline.errors import ParamsError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.datasets.caption_files import CaptionFile, ReferenceFile
    from pipeline.metrics.evaluation import Evaluation

Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the bootstrap.", show_default="17")]
Meteor = Annotated[bool, typer.Option("--meteor", help="Add METEOR (needs Java and the extra `meteor`).")]
SEED = 17
_COMMON = 0.5
"""The stage warns when more of the images than this have the same caption, if there are at least `_FEW`."""
_FEW = 5
Unit = Literal["word", "character"]
UnitOption = Annotated[
    Unit | None,
    typer.Option(
        help="What a token is; character is for languages that do not separate words with spaces.", show_default="word"
    ),
]


def score(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Captions to score: COCO's results format, JSON lines such as those of `predict --json`, or a table. "
            "Without FILE the stage runs.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="COCO's annotations file, Karpathy's file, a JSON object with a list of captions per image, JSON "
            "lines or a table."
        ),
    ] = None,
    subset: Annotated[bool, typer.Option("--subset", help="Score only the images that have a caption.")] = False,
    meteor: Meteor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    per_image: Annotated[Path | None, typer.Option(help="Write the scores of each image to this CSV file.")] = None,
    unit: UnitOption = None,
    seed: Seed = None,
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Caption a split and score it with BLEU, CIDEr-D and ROUGE-L; with FILE, score the captions in it."""
    if file is None:
        if references or subset or meteor or as_json or per_image or unit or seed is not None:
            raise ParamsError(
                "score: --references, --subset, --meteor, --json, --per-image, --unit and --seed need a file of "
                "captions: captioner score FILE --references REFERENCES"
            )
        _score_split(params)
        return
    from pipeline.datasets.caption_files import read_caption_file, read_reference_file
    from pipeline.datasets.caption_matching import match_captions
    from pipeline.datasets.tables import write_scored_captions
    from pipeline.metrics.evaluation import evaluate

    if per_image:
        check_output_table("--per-image", per_image, "image,caption,*,references", (file, references))
    captions = read_caption_file(file)
    known = reference_file(captions, str(file), read_reference_file(references) if references else None)
    matched = match_captions(captions, known, subset=subset)
    say(*(f"note: {note}" for note in matched.notes))
    if matched.missing:
        missing = counted(len(matched.missing), "image without a caption is", "images without a caption are")
        say(f"warning: {missing} not in these scores")
    tokenize = tokenizer_of(unit, matched.references)
    seed = SEED if seed is None else seed
    evaluation = evaluate(matched.captions, matched.references, seed=seed, meteor=meteor, tokenize=tokenize)
    say(*warnings(evaluation), *few_images_warning(evaluation.scores.images))
    if per_image:
        write_scored_captions(per_image, evaluation.captions, evaluation.references, evaluation.scores.per_image)
    if as_json:
        show_json(evaluation.metrics(), indent=2)
    else:
        _print_scores(evaluation, unit or "word")


def reference_file(captions: "CaptionFile", name: str, references: "ReferenceFile | None") -> "ReferenceFile":
    """The references given, or else those beside the captions. Raises `ParamsError` when there are none."""
    known = references or captions.references
    if known is None:
        raise ParamsError(f"{name}: holds no references; name their file with --references")
    if captions.references is None and Path(name).exists() and Path(name).samefile(known.source):
        raise ParamsError(
            f"--references {known.source}: the file of the captions, which holds no references beside them (a column "
            "or key `references`); name another file"
        )
    return known


def tokenizer_of(unit: Unit | None, references: Mapping[str, Sequence[str]]) -> Callable[[str], list[str]]:
    """The tokenizer of a unit; prints a warning where the word tokenizer drops letters of the references, and a note
    where the project's model generates characters and no unit is given.

    Raises `ParamsError` where a language without spaces needs a choice.
    """
    from pipeline.text.tokenizers import TOKENIZERS, UNITS
    from pipeline.text.writing_systems import share_with_dropped_letters, share_without_spaces

    every = [text for texts in references.values() for text in texts]
    share = share_without_spaces(every)
    if unit is None and share > UNSPACED:
        raise ParamsError(
            f"{share:.0%} of the references are in a script without spaces between words, so that words would score "
            "about 0: add --unit character, or --unit word where the words are separated by spaces"
        )
    if unit is None and _model_unit() == "character":
        say(f"note: scored in words, unlike {paths.SCORES}: add --unit character (params.vocab.unit)")
    if unit != "character":
        say(*dropped_letters_warning(share_with_dropped_letters(every), "references", "add --unit character"))
    return TOKENIZERS[UNITS[unit or "word"]]


def _model_unit() -> str | None:
    """`vocab.unit` of the project in the working folder, if there is one."""
    with suppress(ParamsError):
        return read_params_file(paths.PARAMS).vocab.unit if paths.PARAMS.is_file() else None
    return None


def warnings(evaluation: "Evaluation") -> Iterator[str]:
    """Warnings about captions whose scores are misleading."""
    images = evaluation.scores.images
    empty = round(evaluation.diversity["empty_captions"] * images)
    if empty:
        yield f"warning: {empty:,} of {counted(images, 'caption')} {'has' if empty == 1 else 'have'} no words"


def few_images_warning(images: int) -> Iterator[str]:
    """A warning about scores of too few images for their intervals."""
    from pipeline.metrics.bootstrap import FEW_IMAGES

    if images == 1:
        yield (
            "warning: one image: CIDEr-D is 0 by definition, because every n-gram is in the references of all images, "
            "and there is no interval"
        )
    elif images < FEW_IMAGES:
        yield f"warning: {images} images: the intervals and p-values of so few are too small"


def _score_split(path: Path) -> None:
    from pipeline.stages.score import ScoreFiles
    from pipeline.stages.score import score as run

    params = read_params_file(path)
    announce_device(params.run.device)
    with progress_bar("score") as progress:
        report = run(ScoreFiles(), params, progress=progress)
    evaluation = report.evaluation
    if report.without_features:
        say(without_features_warning(params.score.split, report.without_features))
    say(f"score: {counted(evaluation.scores.images, 'image')} of the {params.score.split} split")
    say(*_scores_table(evaluation))
    if params.score.split == "train":
        say("warning: the model was trained on these images: expect lower scores on all others (params.score.split)")
        if params.score.rerank.neighbors:
            say(
                "warning: each training image is its own nearest neighbor, so re-ranking raises these scores; set "
                "params.score.rerank.neighbors to 0"
            )
    if report.longer_references:
        references = counted(evaluation.reference_lengths.total(), "reference")
        say(
            f"warning: {report.longer_references:,} of {references} {'is' if report.longer_references == 1 else 'are'} "
            f"longer than params.score.max_length ({counted(report.max_length, 'token')}); "
            f"{counted(report.at_max_length, 'generated caption reaches', 'generated captions reach')} this limit"
        )
    say(*warnings(evaluation), *few_images_warning(evaluation.scores.images))
    common = evaluation.diversity["most_common_caption"]
    if common > _COMMON and evaluation.scores.images >= _FEW:
        say(f"warning: {common:.0%} of the images have the same caption: the decoder does not describe its images yet")


def _print_scores(evaluation: "Evaluation", unit: Unit) -> None:
    from pipeline.metrics.diversity import diversity_rows

    images, texts = evaluation.scores.images, evaluation.reference_lengths.total()
    show(f"{counted(images, 'caption')}, {counted(texts, 'reference')}", "")
    show(*_scores_table(evaluation), "")
    diversity = diversity_rows(evaluation.diversity, evaluation.reference_diversity, f"{unit}s")
    rows = [("", "captions", "references"), *diversity]
    show(*aligned(rows, right={1, 2}), "")
    show(f"BLEU: {evaluation.scores.signatures['bleu']}")


def _scores_table(evaluation: "Evaluation") -> list[str]:
    """Each score with its interval."""
    from pipeline.metrics.registry import TITLES

    rows = [("", "score", "95% interval")]
    intervals = {name: f"{low:.1f} to {high:.1f}" for name, (low, high) in evaluation.scores.intervals.items()}
    for name, value in evaluation.scores.corpus.items():
        rows.append((TITLES[name], f"{value:.1f}", intervals.get(name, "none")))
    return aligned(rows, right={1, 2})
