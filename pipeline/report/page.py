"""metrics/report.html: one page that needs no other file and works offline."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from pipeline.datasets.statistics import DatasetStatistics
from pipeline.encoders.spec import EncoderSpec
from pipeline.metrics.diversity import diversity_rows
from pipeline.metrics.evaluation_file import EvaluationFile, ScoreRecord
from pipeline.metrics.registry import TITLES
from pipeline.report.charts import Chart, bar_chart, line_chart
from pipeline.report.dataset_section import dataset_section
from pipeline.report.gallery import Card, filters
from pipeline.report.templating import render, static_file
from pipeline.wording import counted

Curves = Mapping[str, Sequence[float]]
"""The columns of training.csv, without the epoch."""
SUSPICIOUS = 0.2
"""The page warns when more of the images than this have the same caption."""


def render_report(
    evaluation: EvaluationFile,
    *,
    spec: EncoderSpec,
    statistics: DatasetStatistics,
    curves: Curves,
    cards: Sequence[Card],
) -> str:
    """The HTML page."""
    return render(
        "page.html.j2",
        css=static_file("report.css"),
        script=static_file("report.js"),
        title=f"Captions of the {evaluation.split} split",
        lead=_lead(evaluation, spec),
        common_caption=_common_caption(evaluation),
        tiles=[_tile(TITLES[name], score) for name, score in evaluation.scores.items()],
        cards=cards,
        card_scores=[TITLES[name] for name in cards[0].record.scores] if cards else [],
        titles=TITLES,
        filters=filters(evaluation),
        diversity=diversity_rows(evaluation.diversity, evaluation.reference_diversity, evaluation.model.unit),
        lengths=_length_chart(evaluation),
        curves=_curve_charts(curves),
        dataset=dataset_section(statistics),
        sources=_sources(evaluation, spec),
    )


def _tile(title: str, score: ScoreRecord) -> dict[str, object]:
    """A score with its interval, on a scale that starts at 0; positions are in percent of the scale."""
    scale = 100 * ceil(max(score.value, score.high or 0.0, 1.0) / 100)  # a CIDEr-D may be above 100
    position, start, end = (round(100 * one / scale, 2) for one in (score.value, score.low or 0.0, score.high or 0.0))
    width = round(max(end - start, 0.6), 2)  # large enough to be visible
    return {"title": title, "score": score, "scale": scale, "position": position, "start": start, "width": width}


def _lead(evaluation: EvaluationFile, spec: EncoderSpec) -> str:
    weights = "random weights" if spec.has_random_weights else spec.weights
    encoder = f"features of {spec.name}" if spec.imported else f"{spec.name} ({weights})"
    return (
        f"{counted(len(evaluation.images), 'image')}, captioned by the {evaluation.model.decoder['kind']} decoder on "
        f"{encoder}, beam size {evaluation.search['beam_size']}"
    )


def _common_caption(evaluation: EvaluationFile) -> str | None:
    """The share of images with the most common caption, when it is suspiciously large."""
    share = evaluation.diversity["most_common_caption"]
    suspicious = share > max(SUSPICIOUS, 2 * evaluation.reference_diversity["most_common_caption"])
    return f"{share:.0%}" if suspicious else None


def _length_chart(evaluation: EvaluationFile) -> Chart | None:
    unit = evaluation.model.unit
    return bar_chart(
        f"{unit.capitalize()} per caption",
        {"generated": _percent(evaluation.lengths), "references": _percent(evaluation.reference_lengths)},
        x_label=f"{unit}; % of captions",
    )


def _percent(counts: Mapping[int, int]) -> dict[int, float]:
    total = sum(counts.values())
    return {number: 100 * count / total for number, count in sorted(counts.items())}


def _curve_charts(curves: Curves) -> list[Chart]:
    losses = {_words(name): _by_epoch(values) for name, values in curves.items() if name.endswith("loss")}
    charts = [line_chart("Loss", losses, x_label="epoch")]
    for name, values in curves.items():
        if name.startswith("val_") and not name.endswith("loss"):
            score = name.removeprefix("val_")
            title = f"{TITLES.get(score, _words(score))} of the val captions"
            charts.append(line_chart(title, {name: _by_epoch(values)}, x_label="epoch", mark_best=True))
    return [chart for chart in charts if chart]


def _by_epoch(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(epoch), value) for epoch, value in enumerate(values, start=1)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sources(evaluation: EvaluationFile, spec: EncoderSpec) -> dict[str, dict[str, str]]:
    """The params and digests behind the page, by heading."""
    model = evaluation.model
    sections: dict[str, dict[str, object]] = {
        "Scores": {
            "images": f"{len(evaluation.images):,}, and {evaluation.without_features:,} without features",
            **{TITLES.get(name, name.upper()): text for name, text in evaluation.signatures.items()},
            "seed of the bootstrap": evaluation.seed,
            "score.split": evaluation.split,
            **{f"score.{key}": value for key, value in evaluation.search.items()},
        },
        "Decoder": {
            **{f"decoder.{key}": value for key, value in model.decoder.items()},
            "vocabulary": f"{model.vocabulary:,} {model.unit}",
            "tokenizer": model.tokenizer,
            "parameters": f"{model.parameters:,}",
        },
        "Training": {**model.trained_on, **training_params(model.params)},
        "Encoder": {
            "network": spec.name,
            "weights": f"{spec.weights}, sha256 {spec.weights_sha256}",
            "layer": f"{spec.layer}, {model.regions} regions of {model.channels} channels",
            "precision": f"{spec.precision}, stored as {spec.dtype}",
            **_preprocessing(spec),
            "digest": spec.digest,
        },
    }
    return {heading: {key: str(value) for key, value in rows.items()} for heading, rows in sections.items()}


def _preprocessing(spec: EncoderSpec) -> dict[str, object]:
    """The preprocessing; nothing for features that another program computed."""
    return {} if spec.imported else {f"preprocessing.{key}": value for key, value in vars(spec.preprocessing).items()}


def training_params(params: Mapping[str, Any]) -> dict[str, object]:
    """The seed and the train section of params; options of a subsection have dotted names."""
    rows: dict[str, object] = {"seed": params["seed"]} if "seed" in params else {}
    for key, value in params.get("train", {}).items():
        if isinstance(value, Mapping):
            rows |= {f"train.{key}.{name}": option for name, option in value.items()}
        else:
            rows[f"train.{key}"] = value
    return rows
