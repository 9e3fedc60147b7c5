"""What an encoder source provides: pretrained networks by name, their preprocessing, and any layer as a feature map.

B images, S input side, C channels, H x W the layer's map.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.encoders.spec import Preprocessing
from pipeline.errors import ParamsError


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

    @property
    def pretrained(self) -> bool:
        """Whether the weights are trained, not random."""
        return not self.weights.startswith("random:")


class EncoderSource(Protocol):
    """One library of pretrained networks."""

    def load(self, name: str, weights: str, seed: int) -> LoadedModel:
        """Load the network `name`. `weights` is one of the source's names, a file, or `none` for random weights.

        Raises `ParamsError` for an unknown name or unusable weights, `WeightsNotFetched`.
        """

    def make_uninitialized(self, name: str) -> nn.Module:
        """Build the network `name` without weights; on the `meta` device it allocates nothing."""

    def default_layer(self, loaded: LoadedModel, name: str, size: int) -> str:
        """Return the layer that `layer: auto` selects for inputs of `size` pixels. Raises `ParamsError`."""

    def cut_at(self, model: nn.Module, layer: str, name: str) -> nn.Module:
        """Return the part of `model` up to `layer`, a module from images (B, 3, S, S) to the layer's output.

        Raises `ParamsError` for an unknown layer.
        """

    def feature_map(self, output: Tensor, layer: str) -> Tensor:
        """Convert a layer's output to a map (B, C, H, W) or a vector (B, C).

        Removes class and register tokens and moves channels first. Raises `ParamsError` when the output is neither.
        """


@torch.inference_mode()
def run_network(network: nn.Module, batch: Tensor, name: str) -> Tensor | dict[str, Tensor]:
    """Run a network once to learn its output's shape. Raises `ParamsError` when it does not accept this input size."""
    try:
        output: Tensor | dict[str, Tensor] = network(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ParamsError(f"params.encoder.image_size: {name} does not accept {batch.shape[-1]}: {error}") from error
    return output
