"""The starter: a trained captioner that comes with the package, so that photos can be captioned without training."""

from pathlib import Path

from pipeline import paths
from pipeline.errors import ArtefactError

STARTER = "starter"
"""The name of the starter where a model file is expected."""
STARTER_FILE = Path(__file__).parent / "inference" / "starter.safetensors"
"""The model file; `docs/make_starter.py` writes it."""


def model_path(model: str | Path) -> Path:
    """Return the model file that `model` names: the starter for `"starter"`, else a path.

    Raises `ArtefactError` where this installation has no starter.
    """
    if model != STARTER:
        return Path(model)
    if not STARTER_FILE.is_file():
        raise ArtefactError("starter: this installation has no starter model; name a model file instead")
    return STARTER_FILE


def default_model() -> str:
    """Return the project's own model file where there is one, else the name of the starter if it is installed."""
    return STARTER if STARTER_FILE.is_file() and not paths.MODEL.is_file() else str(paths.MODEL)
