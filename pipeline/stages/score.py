"""score: captions for a split, and how good they are.

Reads captions.csv, images.csv, features.h5, captioner.safetensors and training.csv. Writes scores.json, captions.csv
(each picture's caption beside its references) and report.html.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.bundle import Bundle
from pipeline.captions import tokenizer
from pipeline.decoders.search import Search, beam_search
from pipeline.device import choose_device
from pipeline.errors import DataError
from pipeline.features.cache import FeatureCache
from pipeline.features.images import ImageError, thumbnail_uri
from pipeline.files import write_csv, write_json, write_text
from pipeline.metrics.scorecard import Scorecard, degeneracy, score
from pipeline.progress import Progress, silent
from pipeline.report import Card, render_report
from pipeline.stages.tables import Image, read_captions, read_images

if TYPE_CHECKING:
    from pipeline.params import RunParams, ScoreParams

BATCH = 64
CARDS = 24
NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "cider_d": "CIDEr-D",
    "rouge_l": "ROUGE-L",
}


@dataclass(frozen=True)
class Scored:
    """A split's captions and scores."""

    scorecard: Scorecard
    captions: dict[str, str]
    degeneracy: dict[str, float]
    """Signs that the model says one sentence for everything."""
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
    report_out: Path,
    progress: Progress = silent,
) -> Scored:
    """Raises `DataError`, `ArtefactError`."""
    cache = FeatureCache.open(features)
    bundle = Bundle.load(model)
    bundle.check_features(cache.spec, features)
    everything = read_captions(captions, params.split)
    known = cache.index()
    references = {image: texts for image, texts in everything.items() if image in known}
    if not references:
        raise DataError(f"{captions}: no picture of the {params.split} split has features; check params.score.split")
    search = Search(**params.model_dump(exclude={"split"}))
    generated = _generate(bundle, cache, list(references), search, run, progress)
    tokenised = [[" ".join(tokenizer.tokenize(text)) for text in texts] for texts in references.values()]
    card = score(list(generated.values()), tokenised, seed=seed)
    signs = degeneracy(list(generated.values()), len(bundle.vocabulary))
    result = Scored(card, generated, signs, len(everything) - len(references))

    write_json(scores_out, _metrics(result))
    per_picture = zip(generated.items(), references.values(), card.per_picture["cider_d"], strict=True)
    write_csv(
        captions_out,
        ("image", "caption", "cider_d", "references"),
        ((image, caption, f"{value:.4f}", " | ".join(texts)) for (image, caption), texts, value in per_picture),
    )
    rows = {row.image: row for row in read_images(images)}
    page = render_report(
        title=f"Captions of the {params.split} split",
        scores={NAMES[name]: _with_interval(card, name) for name in NAMES},
        facts={
            "pictures": f"{len(generated)} ({result.without_features} could not be decoded)",
            "decoder": str(bundle.decoder_params),
            "encoder": bundle.spec.to_json(),
            "search": str(params.model_dump()),
            "training": str(bundle.trained_on),
            "BLEU": card.signature,
        },
        curve=_validation_curve(curve),
        cards=_cards(generated, references, rows),
    )
    write_text(report_out, page)
    return result


def _generate(
    bundle: Bundle, cache: FeatureCache, images: Sequence[str], search: Search, run: "RunParams", progress: Progress
) -> dict[str, str]:
    """The best caption of each picture."""
    device = choose_device(run.device)
    decoder = bundle.decoder.to(device)
    captions = {}
    for start in range(0, len(images), BATCH):
        names = images[start : start + BATCH]
        rows = torch.from_numpy(cache.load(names)).to(device).float()
        for name, (best, *_) in zip(names, beam_search(decoder, rows, search), strict=True):
            captions[name] = bundle.vocabulary.decode(best.tokens)
        progress(min(start + BATCH, len(images)), len(images), "pictures captioned")
    return captions


def _metrics(result: Scored) -> dict[str, object]:
    card = result.scorecard
    return {
        **{name: round(value, 4) for name, value in card.scores.items()},
        "intervals": {name: [round(low, 4), round(high, 4)] for name, (low, high) in card.intervals.items()},
        "pictures": card.pictures,
        "without_features": result.without_features,
        **{name: round(value, 4) for name, value in result.degeneracy.items()},
        "signature": card.signature,
    }


def _with_interval(card: Scorecard, name: str) -> str:
    low, high = card.intervals[name]
    return f"{card.scores[name]:.1f}  ({low:.1f} to {high:.1f})"


def _validation_curve(path: Path) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["val_cider_d"]) for row in csv.DictReader(file)]


def _cards(generated: dict[str, str], references: dict[str, list[str]], rows: dict[str, Image]) -> list[Card]:
    """Every so-many-th picture of the split."""
    step = max(1, len(generated) // CARDS)
    cards = []
    for image in list(generated)[::step][:CARDS]:
        try:
            picture = thumbnail_uri(rows[image].path.read_bytes(), 320)
        except (OSError, ImageError):
            continue  # gone since it was encoded: its caption stands in the table all the same
        cards.append(Card(image, picture, generated[image], references[image]))
    return cards
