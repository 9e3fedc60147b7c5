"""report: the page with scores, captions and learning curves, and the model card.

Reads evaluation.json, captions.csv, images.csv and training.csv. Writes report.html and the model card.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.datasets.entries import SPLITS
from pipeline.datasets.statistics import dataset_statistics
from pipeline.datasets.tables import read_captions, read_curves, read_images
from pipeline.encoders.spec import EncoderSpec
from pipeline.files import check_writable, write_text
from pipeline.metrics.evaluation_file import EvaluationFile
from pipeline.progress import Progress, no_progress
from pipeline.report.gallery import make_cards
from pipeline.report.model_card import render_model_card
from pipeline.report.page import render_report

OPENED_IMAGES = 2000
"""Images whose headers are read for the dataset statistics; `captioner stats` reads all."""


@dataclass(frozen=True)
class ReportFiles:
    """Input and output paths of the stage."""

    evaluation: Path = paths.EVALUATION
    captions: Path = paths.CAPTIONS
    images: Path = paths.IMAGES
    training: Path = paths.TRAINING
    report: Path = paths.REPORT
    model_card: Path = paths.MODEL_CARD


@dataclass(frozen=True)
class ReportSummary:
    """What the report shows."""

    images: int
    """Captioned images."""
    thumbnails: int
    """Images that the page holds."""
    tensors_sha256: str | None
    """Digest of the tensors of the model that was scored; None if evaluation.json has none."""


def report(files: ReportFiles, *, progress: Progress = no_progress) -> ReportSummary:
    """Write the page and the model card. Raises `DataError`, `ArtefactError`, `DiskError`."""
    check_writable(files.report, files.model_card)
    evaluation = EvaluationFile.read(files.evaluation)
    spec = EncoderSpec.from_json(evaluation.model.spec)
    captions = {split: read_captions(files.captions, split) for split in SPLITS}
    rows = list(read_images(files.images))
    image_files = {row.image: row.path for row in rows}
    statistics = dataset_statistics(
        captions,
        image_files,
        {row.image: row.sha256 for row in rows},
        tokenizer=evaluation.model.tokenizer,
        sample=OPENED_IMAGES,
        headers_only=True,
        progress=progress,
    )
    cards = make_cards(evaluation, image_files, spec)
    curves = read_curves(files.training)
    page = render_report(evaluation, spec=spec, statistics=statistics, curves=curves, cards=cards)
    images = Counter(row.split for row in rows)
    counts = [(split, images[split], sum(map(len, captions[split].values()))) for split in SPLITS]
    write_text(files.report, page)
    write_text(files.model_card, render_model_card(evaluation, spec=spec, counts=counts))
    thumbnails = sum(card.thumbnail is not None for card in cards)
    return ReportSummary(len(cards), thumbnails, evaluation.model.tensors_sha256)
