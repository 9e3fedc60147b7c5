"""Image captioning on cached image features, with byte-identical reruns.

>>> from pipeline import Captioner                      # doctest: +SKIP
>>> Captioner.load("models/captioner.safetensors")("photo.jpg")  # doctest: +SKIP
'a brown dog runs through the grass'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.inference.captioner import Captioner

__all__ = ["Captioner", "__version__"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import `Captioner` on first use, because importing torch takes seconds."""
    if name == "Captioner":
        from pipeline.inference.captioner import Captioner

        return Captioner
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
