"""models/README.md: the model card, made from the model, its scores and its data."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.encoders.spec import EncoderSpec
from pipeline.metrics.bootstrap import FEW_IMAGES
from pipeline.metrics.evaluation_file import EvaluationFile
from pipeline.metrics.registry import TITLES
from pipeline.params import TrainParams
from pipeline.report.page import training_params
from pipeline.report.templating import render
from pipeline.wording import counted

FEW_TRAINED = 10_000
"""A model trained on fewer images is expected to fail outside its dataset."""
WIDE_INTERVAL = 4
"""The card points out a wider 95% interval of BLEU-4."""
_FAMILIARITY = "; `captioner predict` flags many of these, not all"


def render_model_card(evaluation: EvaluationFile, *, spec: EncoderSpec, counts: Sequence[tuple[str, int, int]]) -> str:
    """Markdown; `counts` holds each split with its numbers of images and captions."""
    return render(
        "model_card.md.j2",
        evaluation=evaluation,
        model=evaluation.model,
        diversity=evaluation.diversity,
        spec=spec,
        counts=counts,
        titles=TITLES,
        settings=_settings,
        training=_changed_params(evaluation.model.params),
        limits=_limits(evaluation, spec),
        license=_license(spec),
    )


def _settings(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _changed_params(params: Mapping[str, Any]) -> dict[str, object]:
    """The train options that differ from their defaults."""
    defaults, options = (
        training_params({"train": train}) for train in (TrainParams().model_dump(), params.get("train", {}))
    )
    return {name: value for name, value in options.items() if value != defaults.get(name)}


def _limits(evaluation: EvaluationFile, spec: EncoderSpec) -> list[str]:
    model, bleu = evaluation.model, evaluation.scores["bleu_4"]
    limits = [
        f"Its vocabulary has {model.vocabulary:,} {model.unit}, and it generates no others.",
        "It captions every image, including kinds that it was not trained on"
        + (_FAMILIARITY if model.has_familiarity else "")
        + ".",
        (
            "Its scores are those of the images that it was trained on: expect lower ones on all others."
            if evaluation.split == "train"
            else f"Its scores hold for images like those of the {evaluation.split} split, and for these references: "
            "compare them with other captioners only on the same ones."
        ),
        "It repeats the assumptions of its training captions, such as about gender and what is normal. Do not use it "
        "for decisions about people.",
    ]
    if model.params.get("train", {}).get("store_captions"):
        limits.append(
            "It holds the captions of its training images word for word, to re-rank its own. Do not pass it on where "
            "those must stay private, or train with `train.store_captions: false`."
        )
    trained_images = model.trained_on.get("images")
    if isinstance(trained_images, int) and trained_images < FEW_TRAINED:
        limits.append(f"It was trained on only {counted(trained_images, 'image')}: expect it to fail on others.")
    if bleu.low is None or bleu.high is None:
        limits.append("Its scores are those of a single image: they have no interval, and CIDEr-D is 0 by definition.")
    elif len(evaluation.images) < FEW_IMAGES:
        limits.append(
            f"Its scores are those of {len(evaluation.images)} images only; the intervals of so few are too narrow."
        )
    elif bleu.high - bleu.low > WIDE_INTERVAL:
        limits.append(
            f"On {counted(len(evaluation.images), 'image')}, its BLEU-4 is only known to lie between {bleu.low:.1f} "
            f"and {bleu.high:.1f}: smaller differences prove nothing."
        )
    if spec.imported:
        limits.append(f"It captions features of {spec.name}, not image files: another program computes them.")
    if spec.has_random_weights:
        limits.append("Its encoder has random weights, which is enough for drawings but not for photographs.")
    return limits


def _license(spec: EncoderSpec) -> str:
    if spec.imported:
        return f"features of {spec.name}, which another program computed; see the license of its weights."
    if spec.has_random_weights:
        return "random weights, made from the seed; no license applies."
    if spec.weights == "file":
        return "weights from a file; their license is that of the file's author."
    if "SWAG" in spec.weights.upper():
        return "torchvision's SWAG weights: CC-BY-NC 4.0, which excludes commercial use."
    if spec.source != "torchvision":
        return f"weights from {spec.source}; see the license of the named weights."
    return (
        "torchvision's weights. torchvision itself is BSD-3-Clause and states that its weights may have terms that "
        "follow from their training data (here ImageNet, whose images are for research): check them for your use."
    )
