"""The public names of `pipeline`, under the name of the distribution: `from captioner import Captioner`."""

from pipeline import Captioner, __version__

__all__ = ["Captioner", "__version__"]
