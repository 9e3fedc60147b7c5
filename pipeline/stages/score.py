"""score: captions a split and scores the captions.

Reads captions.csv, features.h5 and captioner.safetensors. Writes scores.json, captions.csv (each caption beside its
references), bleu.csv and lengths.csv (for plots), and evaluation.json (for the report).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import paths
from pipeline.datasets.tables import read_captions, write_scored_captions
from pipeline.decoders.search import Hypothesis, SearchOptions
from pipeline.device import choose_device, resolve_precision
from pipeline.errors import DataError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import check_writable, write_csv, write_json
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.model_metadata import read_metadata
from pipeline.metrics.evaluation import Evaluation, evaluate
from pipeline.metrics.evaluation_file import EvaluationFile, ModelRecord, image_records, score_records
from pipeline.options import RerankOptions
from pipeline.progress import Progress, no_progress
from pipeline.text.tokenizers import get_tokenizer
from pipeline.text.vocabulary import Vocabulary
from pipeline.tokens import SPECIAL_TOKENS

if TYPE_CHECKING:
    from pipeline.params import Params, ScoreParams

Weights = NDArray[np.float32]

BATCH = 64
"""Images captioned at a time."""


@dataclass(frozen=True)
class ScoreFiles:
    """Input and output paths of the stage."""

    captions: Path = paths.CAPTIONS
    features: Path = paths.FEATURES
    model: Path = paths.MODEL
    scores: Path = paths.SCORES
    scored_captions: Path = paths.SCORED_CAPTIONS
    bleu: Path = paths.BLEU
    lengths: Path = paths.LENGTHS
    evaluation: Path = paths.EVALUATION


@dataclass(frozen=True)
class ScoreReport:
    """The captions and scores of a split."""

    evaluation: Evaluation
    without_features: tuple[str, ...]
    """Images of the split that have no features, so that they are not scored."""
    max_length: int
    """Most tokens of a generated caption."""
    at_max_length: int
    """Generated captions that have as many."""
    longer_references: int
    """References that have more."""


def score(files: ScoreFiles, params: "Params", *, progress: Progress = no_progress) -> ScoreReport:
    """Caption the split `params.score.split` and score the captions.

    Raises `DataError`, `ArtefactError`, `DiskError`; `ParamsError` when METEOR is requested and not installed, or
    re-ranking with a model that stores no captions.
    """
    check_writable(files.scores, files.scored_captions, files.bleu, files.lengths, files.evaluation)
    features = FeatureFile.open(files.features)
    model, tensors_sha256 = TrainedModel.load(files.model), read_metadata(files.model).tensors_sha256
    model.check_features(features)
    captions = read_captions(files.captions, params.score.split)
    if not captions:
        raise DataError(
            f"{files.captions}: no image is in the {params.score.split} split; add images and run `dvc repro`, or set "
            "params.score.split to another split"
        )
    encoded = features.index
    references = {image: texts for image, texts in captions.items() if image in encoded}
    if not references:
        raise DataError(
            f"{files.captions}: no image of the {params.score.split} split has features; {paths.SKIPPED} lists those "
            "that cannot be decoded; repair them and run `dvc repro extract` (or `captioner import-features`), or "
            "change params.score.split"
        )
    search, rerank = search_options(params.score, model.vocabulary), params.score.rerank
    hypotheses, attention = _generate(model, features, list(references), search, rerank, params.run.device, progress)
    evaluation = evaluate(
        {image: model.vocabulary.decode(best.tokens) for image, best in hypotheses.items()},
        references,
        seed=params.seed,
        vocabulary_size=len(model.vocabulary) - len(SPECIAL_TOKENS),
        meteor=params.score.meteor,
        tokenize=get_tokenizer(model.vocabulary.tokenizer, str(files.model)),
    )
    limit = search.max_length
    report = ScoreReport(
        evaluation,
        tuple(image for image in captions if image not in encoded),
        max_length=limit,
        at_max_length=sum(len(best.tokens) == limit for best in hypotheses.values()),
        longer_references=sum(count for length, count in evaluation.reference_lengths.items() if length > limit),
    )
    write_json(files.scores, {**evaluation.metrics(), "without_features": len(report.without_features)})
    cider_d = {"cider_d": evaluation.scores.per_image["cider_d"]}
    write_scored_captions(files.scored_captions, evaluation.captions, evaluation.references, cider_d)
    _write_bleu(files.bleu, evaluation)
    _write_lengths(files.lengths, evaluation)
    record = _model_record(model, tensors_sha256)
    _evaluation_file(report, record, attention, search, rerank, params).write(files.evaluation)
    return report


def search_options(params: "ScoreParams", vocabulary: Vocabulary) -> SearchOptions:
    """The search of these params; `auto` is the value that the vocabulary stores."""
    options = params.model_dump(exclude={"split", "meteor", "rerank"})
    for name in ("max_length", "no_repeat_ngram"):
        if options[name] == "auto":
            options[name] = getattr(vocabulary, name)
    return SearchOptions(**options)


def _generate(
    model: TrainedModel,
    features: FeatureFile,
    images: list[str],
    search: SearchOptions,
    rerank: RerankOptions,
    device_name: str,
    progress: Progress,
) -> tuple[dict[str, Hypothesis], dict[str, Weights]]:
    """The best caption of each image, and its attention weights (T, R) if the decoder has attention."""
    device = choose_device(device_name)
    resolve_precision(search.precision, device, "params.score.precision")
    model = model.for_inference(device)
    best: dict[str, Hypothesis] = {}
    attention: dict[str, Weights] = {}
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        rows = torch.from_numpy(features.load(batch)).to(device).float()  # (B, R, C)
        found = model.search(rows, search, rerank, attention=True)
        for image, (first, *_) in zip(batch, found, strict=True):
            best[image] = replace(first, attention=None)
            if first.attention is not None:  # a number in a tuple takes eight times the memory
                attention[image] = np.array(first.attention[: len(first.tokens)], np.float32)
        progress(len(best), len(images), "images captioned")
    return best, attention


def _write_bleu(path: Path, evaluation: Evaluation) -> None:
    """BLEU by n-gram order, with the ends of its 95% interval, which one image does not have."""
    rows = []
    for name, value in evaluation.scores.corpus.items():
        if name.startswith("bleu_"):
            ends = [f"{end:.4f}" for end in evaluation.scores.intervals.get(name, ())] or ["", ""]
            rows.append([name.removeprefix("bleu_"), f"{value:.4f}", *ends])
    write_csv(path, ("n", "bleu", "low", "high"), rows)


def _write_lengths(path: Path, evaluation: Evaluation) -> None:
    """The shares of generated captions and references by their number of words."""
    ours, theirs = evaluation.lengths, evaluation.reference_lengths
    rows = [
        (length, f"{ours[length] / ours.total():.6f}", f"{theirs[length] / theirs.total():.6f}")
        for length in range(max(*ours, *theirs) + 1)
    ]
    write_csv(path, ("words", "generated", "references"), rows)


def _evaluation_file(
    report: ScoreReport,
    model: ModelRecord,
    attention: Mapping[str, Weights],
    search: SearchOptions,
    rerank: RerankOptions,
    params: "Params",
) -> EvaluationFile:
    evaluation = report.evaluation
    return EvaluationFile(
        split=params.score.split,
        seed=params.seed,
        without_features=len(report.without_features),
        search={**asdict(search), **{f"rerank.{key}": value for key, value in rerank.model_dump().items()}},
        model=model,
        scores=score_records(evaluation.scores),
        signatures=evaluation.scores.signatures,
        diversity=evaluation.diversity,
        reference_diversity=evaluation.reference_diversity,
        lengths=dict(sorted(evaluation.lengths.items())),
        reference_lengths=dict(sorted(evaluation.reference_lengths.items())),
        images=image_records(evaluation, attention, seed=params.seed),
    )


def _model_record(model: TrainedModel, tensors_sha256: str) -> ModelRecord:
    return ModelRecord(
        decoder=dict(model.decoder_params),
        parameters=sum(parameter.numel() for parameter in model.decoder.parameters()),
        vocabulary=len(model.vocabulary) - len(SPECIAL_TOKENS),
        tokenizer=model.vocabulary.tokenizer,
        spec=model.spec.to_json(),
        regions=model.regions,
        channels=model.channels,
        has_encoder=model.encoder_tensors is not None,
        has_familiarity=model.familiarity is not None,
        trained_on=dict(model.trained_on),
        params=dict(model.params),
        tensors_sha256=tensors_sha256,
    )
