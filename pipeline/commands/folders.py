"""The folders that commands use beside the outputs of the stages."""

import os
from pathlib import Path


def checkpoint_folder() -> Path:
    """Return the folder of training checkpoints. DVC's temporary copies share that of the main repository."""
    return _cache() / "training"


def store_folder() -> Path:
    """Return the folder of the feature store: `$CAPTIONER_CACHE`, else one that copies of a repository share."""
    named = os.environ.get("CAPTIONER_CACHE")
    return Path(named).expanduser() if named else _cache() / "features"


def hash_cache_file() -> Path:
    """Return the file that caches the sha256 of unchanged images."""
    return store_folder() / "image-hashes.json"


def _cache() -> Path:
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache"
