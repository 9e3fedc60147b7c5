"""score: captions for a split, and how good they are.

Reads captions.csv, images.csv, features.h5, captioner.safetensors and training.csv. Writes scores.json, captions.csv
(each picture's caption beside its references), bleu.csv and lengths.csv (for plots), report.html and the model's card.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.datasets.statistics import dataset_statistics
from pipeline.datasets.tables import Image, read_captions, read_curves, read_images
from pipeline.decoders.beam_search import Hypothesis, SearchOptions
from pipeline.device import choose_device, resolve_precision
from pipeline.errors import DataError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import write_csv, write_json, write_text
from pipeline.inference.model_file import TrainedModel
from pipeline.metrics.caption_files import join_references
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.progress import Progress, no_progress
from pipeline.report import render_report
from pipeline.report.gallery import make_cards
from pipeline.report.model_card import ModelFacts, render_model_card
from pipeline.text.tokenizers import get_tokenizer
from pipeline.text.vocabulary import SPECIAL_TOKENS, Vocabulary

if TYPE_CHECKING:
    from pipeline.params import RunParams, ScoreParams

BATCH = 64
SPLITS = ("train", "val", "test")
OPENED = 2000
"""Pictures whose headers are read for the report; `captioner stats` opens all."""


@dataclass(frozen=True)
class Scored:
    """A split's captions and scores."""

    evaluation: Evaluation
    without_features: int
    """Pictures that could not be decoded, so that they are not in the scores."""


def score_split(
    params: "ScoreParams",
    run: "RunParams",
    *,
    seed: int,
    captions: Path,
    images: Path,
    features: Path,
    model: Path,
    curve: Path,
    scores_out: Path,
    captions_out: Path,
    bleu_out: Path,
    lengths_out: Path,
    report_out: Path,
    card_out: Path,
    progress: Progress = no_progress,
) -> Scored:
    """Raises `DataError`, `ArtefactError`; `ParamsError` when METEOR is asked for and cannot be had."""
    cache = FeatureFile.open(features)
    trained = TrainedModel.load(model)
    trained.check_features(cache.spec, features)
    splits = {split: read_captions(captions, split) for split in SPLITS}
    known = cache.index()
    references = {image: texts for image, texts in splits[params.split].items() if image in known}
    if not references:
        raise DataError(
            f"{captions}: no picture of the {params.split} split has features; run `dvc repro extract`, or check "
            "params.score.split"
        )
    search = _search(params, trained.vocabulary)
    found = _generate(trained, cache, list(references), search, run, progress)
    generated = {image: trained.vocabulary.decode(best.tokens) for image, best in found.items()}
    evaluation = evaluate(
        generated,
        references,
        seed=seed,
        vocabulary_size=len(trained.vocabulary) - len(SPECIAL_TOKENS),
        meteor=params.meteor,
        tokenize=get_tokenizer(trained.vocabulary.tokenizer, str(model)),
    )
    scored = Scored(evaluation, len(splits[params.split]) - len(references))

    write_json(scores_out, {**evaluation.metrics(), "without_features": scored.without_features})
    _write_captions(captions_out, evaluation)
    _write_plots(bleu_out, lengths_out, evaluation)
    rows = list(read_images(images))
    facts = _facts(trained)
    digests = {row.image: row.sha256 for row in rows}
    files = {row.image: row.path for row in rows}
    page = render_report(
        title=f"Captions of the {params.split} split",
        lead=_lead(facts, evaluation, params),
        evaluation=evaluation,
        exploration=dataset_statistics(splits, files, digests, sample=OPENED, whole=False),
        curves=read_curves(curve),
        cards=make_cards(found, evaluation, files, trained.spec, seed=seed),
        made_from=_made_from(params.split, search, trained, facts, scored, seed),
    )
    write_text(report_out, page)
    write_text(card_out, _card(params.split, search, facts, evaluation, rows, splits))
    return scored


def _search(params: "ScoreParams", vocabulary: Vocabulary) -> SearchOptions:
    options = params.model_dump(exclude={"split", "meteor"})
    if options["no_repeat_ngram"] == "auto":
        options["no_repeat_ngram"] = vocabulary.no_repeat_ngram
    return SearchOptions(**options)


def _generate(
    model: TrainedModel, cache: FeatureFile, images: Sequence[str], search: SearchOptions, run: "RunParams", progress: Progress
) -> dict[str, Hypothesis]:
    """The best caption of each picture."""
    device = choose_device(run.device)
    resolve_precision(search.precision, device, "params.score.precision")
    model.decoder.to(device)
    captions = {}
    for start in range(0, len(images), BATCH):
        names = images[start : start + BATCH]
        rows = torch.from_numpy(cache.load(names)).to(device).float()
        for name, (best, *_) in zip(names, model.search(rows, search, attention=True), strict=True):
            captions[name] = best
        progress(min(start + BATCH, len(images)), len(images), "pictures captioned")
    return captions


def _write_captions(path: Path, evaluation: Evaluation) -> None:
    values = evaluation.scores.per_image["cider_d"]
    write_csv(
        path,
        ("image", "caption", "cider_d", "references"),
        (
            (image, evaluation.captions[image], f"{value:.4f}", join_references(texts))
            for (image, texts), value in zip(evaluation.references.items(), values, strict=True)
        ),
    )


def _write_plots(bleu: Path, lengths: Path, evaluation: Evaluation) -> None:
    """What `dvc plots` draws."""
    card = evaluation.scores
    orders = [name for name in card.scores if name.startswith("bleu_")]
    write_csv(
        bleu,
        ("n", "bleu", "low", "high"),
        (
            (name.removeprefix("bleu_"), *(f"{value:.4f}" for value in (card.scores[name], *card.intervals[name])))
            for name in orders
        ),
    )
    ours, theirs = evaluation.lengths, evaluation.reference_lengths
    write_csv(
        lengths,
        ("words", "generated", "references"),
        (
            (length, f"{ours[length] / ours.total():.6f}", f"{theirs[length] / theirs.total():.6f}")
            for length in range(max(*ours, *theirs) + 1)
        ),
    )


def _facts(model: TrainedModel) -> ModelFacts:
    return ModelFacts(
        spec=model.spec,
        decoder=model.decoder_params,
        vocabulary=len(model.vocabulary),
        parameters=sum(part.numel() for part in model.decoder.parameters()),
        regions=model.regions,
        channels=model.channels,
        trained_on=model.trained_on,
        carries_encoder=model.encoder_tensors is not None,
    )


def _lead(facts: ModelFacts, evaluation: Evaluation, params: "ScoreParams") -> str:
    weights = "random weights" if facts.spec.weights.startswith("random") else facts.spec.weights
    return (
        f"{evaluation.scores.pictures:,} pictures, captioned by the {facts.decoder['kind']} decoder on "
        f"{facts.spec.name} ({weights}), beam {params.beam_size}"
    )


def _made_from(
    split: str, search: SearchOptions, model: TrainedModel, facts: ModelFacts, scored: Scored, seed: int
) -> dict[str, dict[str, str]]:
    """The params and digests behind the page."""
    trained_on = {key: value for key, value in facts.trained_on.items() if not isinstance(value, Mapping)}
    settings = {f"{part}.{key}": value for part, values in facts.trained_on.items() if isinstance(values, Mapping)
                for key, value in values.items()}  # fmt: skip
    spec = facts.spec
    return {
        "Scores": _text(
            {
                "pictures": f"{len(scored.evaluation.captions):,} ({scored.without_features:,} could not be decoded)",
                "BLEU": scored.evaluation.scores.signature,
                "seed of the bootstrap": seed,
                "score.split": split,
                **{f"score.{key}": value for key, value in asdict(search).items()},
            }
        ),
        "Decoder": _text(
            {
                **{f"decoder.{key}": value for key, value in facts.decoder.items()},
                "vocabulary": f"{facts.vocabulary - len(SPECIAL_TOKENS):,} words",
                "tokenizer": model.vocabulary.tokenizer,
                "parameters": f"{facts.parameters:,}",
            }
        ),
        "Training": _text({**trained_on, **settings}),
        "Encoder": _text(
            {
                "network": spec.name,
                "weights": f"{spec.weights}, sha256 {spec.weights_sha256}",
                "layer": f"{spec.layer}, {facts.regions} regions of {facts.channels} channels",
                "precision": f"{spec.precision}, stored as {spec.dtype}",
                **{f"transform.{key}": value for key, value in vars(spec.transform).items()},
                "digest": spec.digest,
            }
        ),
    }


def _text(rows: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in rows.items()}


def _card(
    split: str,
    search: SearchOptions,
    facts: ModelFacts,
    evaluation: Evaluation,
    rows: Sequence[Image],
    splits: Mapping[str, Mapping[str, Sequence[str]]],
) -> str:
    pictures = Counter(row.split for row in rows)
    return render_model_card(
        model=facts,
        card=evaluation.scores,
        diversity=evaluation.diversity,
        split=split,
        pictures={name: pictures[name] for name in splits},
        captions={name: sum(map(len, captions.values())) for name, captions in splits.items()},
        search=asdict(search),
    )
