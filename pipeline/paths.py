"""Where the stages of `dvc.yaml` read and write, relative to the repository's root. A test holds the two together."""

from pathlib import Path

PARAMS = Path("params.yaml")
CAPTIONS = Path("data/interim/captions.csv")
IMAGES = Path("data/interim/images.csv")
SKIPPED_ROWS = Path("data/interim/skipped.csv")
FEATURES = Path("data/interim/features.h5")
ENCODER = Path("data/interim/encoder.safetensors")
VOCABULARY = Path("data/interim/vocab.json")
MODEL_CARD = Path("models/README.md")
MODEL = Path("models/captioner.safetensors")
SKIPPED = Path("metrics/skipped.csv")
TRAINING = Path("metrics/training.csv")
SCORES = Path("metrics/scores.json")
SCORED_CAPTIONS = Path("metrics/captions.csv")
BLEU = Path("metrics/bleu.csv")
LENGTHS = Path("metrics/lengths.csv")
REPORT = Path("metrics/report.html")
