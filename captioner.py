"""The public names of `pipeline`, under the name of the distribution: `from captioner import Captioner`."""

from typing import TYPE_CHECKING, Any

import pipeline
from pipeline import __version__

if TYPE_CHECKING:
    from pipeline import Captioner

__all__ = ["Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Captioner` on first use, as `pipeline` does."""
    if name in pipeline.__all__:
        return getattr(pipeline, name)
    raise AttributeError(f"module 'captioner' has no attribute {name!r}")
