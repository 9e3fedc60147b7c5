"""The encoder sources by name. A new one is a module in this package and one line in `SOURCES`.

This module does not import torch. A line gives a class that implements `encoders.source.EncoderSource`, as
`package.module:attribute`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.encoders.source import EncoderSource

SOURCES = {
    "torchvision": "pipeline.encoders.torchvision:Torchvision",
}


def get_source(name: str) -> "EncoderSource":
    """Import the source called `name`. Raises `ValueError` for an unknown name."""
    if name not in SOURCES:
        raise ValueError(f"encoder source must be one of {', '.join(SOURCES)}, got {name!r}")
    module, attribute = SOURCES[name].split(":")
    source: EncoderSource = getattr(import_module(module), attribute)()
    return source
