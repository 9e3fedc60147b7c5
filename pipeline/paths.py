"""Inputs and outputs of the stages of `dvc.yaml`, relative to the root of the repository."""

from pathlib import Path

PARAMS = Path("params.yaml")
CODE = Path("data/interim/code")
CAPTIONS = Path("data/interim/captions.csv")
IMAGES = Path("data/interim/images.csv")
SKIPPED_ROWS = Path("data/interim/skipped.csv")
FEATURES = Path("data/interim/features.h5")
ENCODER = Path("data/interim/encoder.safetensors")
VOCABULARY = Path("data/interim/vocab.json")
EVALUATION = Path("data/interim/evaluation.json")
MODEL = Path("models/captioner.safetensors")
MODEL_CARD = Path("models/README.md")
SKIPPED = Path("metrics/skipped.csv")
TRAINING = Path("metrics/training.csv")
SCORES = Path("metrics/scores.json")
SCORED_CAPTIONS = Path("metrics/captions.csv")
BLEU = Path("metrics/bleu.csv")
LENGTHS = Path("metrics/lengths.csv")
REPORT = Path("metrics/report.html")
