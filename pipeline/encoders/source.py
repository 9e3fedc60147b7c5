"""What an encoder source provides: pretrained networks by name, their preprocessing, and any layer as a feature map.

B images, S input side, C channels, H x W the layer's map.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.encoders.spec import Preprocessing
from pipeline.encoders.weights_file import SUFFIXES
from pipeline.errors import ParamsError

FEATURES = "features"
"""Layer name, in sources that name layers themselves: the network's last feature map."""
POOLED = "pooled"
"""Layer name, in such sources: the vector that the network pools its last map to."""
RANDOM_STRIDE = 8
"""Largest stride of the map that `layer: auto` selects with random weights, in input pixels per map position. Deeper
random layers blur the image."""
RANDOM_IMAGE_SIZE = 112
"""`image_size: auto` with random weights, unless the network accepts one size only."""


class WeightsNotFetched(Exception):
    """Published weights are neither on this machine nor downloadable."""


@dataclass(frozen=True)
class LoadedModel:
    """A whole network with its weights, in evaluation mode."""

    model: nn.Module
    weights: str
    """The name of the weights for the spec: the source's own, `file` or `random:SEED`."""
    preprocessing: Preprocessing
    """The preprocessing that the weights were trained with, with its center crop."""
    image_size: int
    """The input side that `image_size: auto` selects."""
    missing: frozenset[str] = frozenset()
    """Names of the tensors that a weights file lacks, or has in another shape."""
    resized: bool = False
    """Whether tensors were interpolated to another input size. Their last bits depend on the processor."""

    @property
    def pretrained(self) -> bool:
        """Whether the weights are trained, not random."""
        return not self.weights.startswith("random:")


class EncoderSource(ABC):
    """One library of pretrained networks."""

    library: ClassVar[str]
    """The library and its version, where an image's features may depend on it; else empty."""

    @abstractmethod
    def load(self, name: str, weights: str, size: int | None, seed: int) -> LoadedModel:
        """Load the network `name` for inputs of `size` pixels; None selects the size that the weights were trained at.

        `weights` is one of the source's names, a file, or `none` for random weights. Raises `ParamsError` for an
        unknown name, unusable weights or an impossible size, `WeightsNotFetched`.
        """

    @abstractmethod
    def empty_network(self, name: str, layer: str, size: int) -> nn.Module:
        """Build what `cut_at` returns without trained weights; its state dict is loaded from a model file."""

    @abstractmethod
    def default_layer(self, loaded: LoadedModel, name: str) -> str:
        """Return the layer that `layer: auto` selects for inputs of `loaded.image_size`. Raises `ParamsError`."""

    @abstractmethod
    def cut_at(self, model: nn.Module, layer: str, name: str) -> nn.Module:
        """Return the part of `model` up to `layer`, a module from images (B, 3, S, S) to the layer's output.

        It shares the tensors of `model` and has none that the layer does not depend on. `model` may be changed. Raises
        `ParamsError` for an unknown layer.
        """

    def feature_map(self, output: Tensor, layer: str) -> Tensor:
        """Convert a layer's output to a map (B, C, H, W) or a vector (B, C).

        A source whose networks output class and register tokens, or channels last, removes and moves them here. Raises
        `ParamsError` when the output is neither.
        """
        if output.dim() not in {2, 4}:
            raise ParamsError(
                f"params.encoder.layer: {layer} outputs {tuple(output.shape)}, which is not a feature map"
            )
        return output


def check_weights_path(weights: str) -> None:
    """Raise `ParamsError` if `weights` is meant as a file, which the caller has not found."""
    path = Path(weights)
    if path.suffix in SUFFIXES or path.name != weights:
        raise ParamsError(f"params.encoder.weights: {weights}: no such file")


def check_patches(size: int, patch: int, name: str) -> None:
    """Raise `ParamsError` if a vision transformer would ignore the right and bottom margin of an image."""
    if size % patch:
        raise ParamsError(
            f"params.encoder.image_size: {name} does not accept {size}, which is no multiple of its patches of {patch} "
            f"pixels; set it to {max(1, size // patch) * patch}"
        )


def find_layer(layer: str, known: Sequence[str], name: str) -> None:
    """Raise `ParamsError` with suggestions when `layer` is none of the `known` layers of the network `name`."""
    if layer not in known:
        hint = suggest(layer, known)
        raise ParamsError(f"params.encoder.layer: {name} has no layer {layer!r}; {hint}known: {', '.join(known)}")


def suggest(value: str, known: Sequence[str]) -> str:
    """Return a question that names the closest of the known values, with a space at its end; empty without any."""
    close = difflib.get_close_matches(value, known, n=3)
    return f"did you mean {', '.join(close)}? " if close else ""


@torch.inference_mode()
def run_network(network: nn.Module, batch: Tensor, name: str) -> Tensor | dict[str, Tensor]:
    """Run a network once to learn its output's shape. Raises `ParamsError` when it does not accept this input size."""
    try:
        with redirect_stderr(StringIO()):  # torch.fx prints a traceback of its own
            output: Tensor | dict[str, Tensor] = network(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        if "normalization of features not supported" in str(error):  # timm's Hiera
            raise ParamsError(
                f"params.encoder.layer: {name} has no map after its last norm; name one of its blocks"
            ) from error
        raise ParamsError(f"params.encoder.image_size: {name} does not accept {batch.shape[-1]}: {error}") from error
    return output
