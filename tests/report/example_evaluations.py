"""Evaluations that need no trained model."""

from pathlib import Path

import numpy as np

from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.metrics.evaluation import evaluate
from pipeline.metrics.evaluation_file import EvaluationFile, ModelRecord, image_records, score_records


def write_image(folder: Path) -> Path:
    """A PNG file of 50 x 40 pixels."""
    from PIL import Image

    path = folder / "image.png"
    Image.new("RGB", (50, 40), (220, 30, 30)).save(path)
    return path


def make_spec(*, weights: str = "random:17", shorter_side: int | None = None, grid: int = 2) -> EncoderSpec:
    mean = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(224, shorter_side, "bilinear", mean, (0.2, 0.2, 0.2), (255, 255, 255))
    return EncoderSpec("vgg11", weights, "ab" * 32, "features.14", grid, preprocessing, "float32")


def make_evaluation(
    captions: dict[str, str],
    references: dict[str, list[str]],
    *,
    attention: list[list[float]] | None = None,
    spec: EncoderSpec | None = None,
    trained_images: int = 100,
    tokenizer: str = "ptb",
    has_familiarity: bool = False,
    **train: object,
) -> EvaluationFile:
    """The results of a score stage for these captions and references by image; the words take turns in `attention`."""
    evaluation = evaluate(captions, references, seed=0, vocabulary_size=30)
    weights = {
        image: np.array([attention[index % len(attention)] for index in range(len(text.split()))], np.float32)
        for image, text in captions.items()
        if attention
    }
    return EvaluationFile(
        split="test",
        seed=3,
        without_features=0,
        search={"beam_size": 3, "rerank.neighbors": 0},
        model=ModelRecord(
            decoder={"kind": "attention", "hidden": 32},
            parameters=12345,
            vocabulary=30,
            tokenizer=tokenizer,
            spec=(spec or make_spec()).to_json(),
            regions=4,
            channels=512,
            has_encoder=True,
            has_familiarity=has_familiarity,
            trained_on={"images": trained_images, "captions_sha256": "cd" * 32},
            params={"seed": 17, "train": {"lr": 0.002, "scst": {"epochs": 0}, **train}},
        ),
        scores=score_records(evaluation.scores),
        signatures=evaluation.scores.signatures,
        diversity=evaluation.diversity,
        reference_diversity=evaluation.reference_diversity,
        lengths=evaluation.lengths,
        reference_lengths=evaluation.reference_lengths,
        images=image_records(evaluation, weights, seed=3),
    )
