"""The encoder sources by name. A new one is a module in this package and one line in `SOURCES`.

This module does not import torch. A line gives a class that implements `encoders.source.EncoderSource`, as
`package.module:attribute`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.encoders.source import EncoderSource

SOURCES = {
    "torchvision": "pipeline.encoders.torchvision:Torchvision",
    "timm": "pipeline.encoders.timm:Timm",
    "open_clip": "pipeline.encoders.open_clip:OpenClip",
}


def get_source(name: str) -> "EncoderSource":
    """Import the source called `name`. Raises `ParamsError` without its library."""
    module, attribute = SOURCES[name].split(":")
    try:
        source: EncoderSource = getattr(import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise ParamsError(
            f"the encoder source {name} needs {error.name}; run `pip install -e '.[{name}]'` in the checkout"
        ) from error
    return source
