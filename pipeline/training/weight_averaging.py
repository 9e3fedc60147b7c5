"""Weights averaged over training: over the latest steps, and over the best epochs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class MovingAverage:
    """An exponential moving average of a network's parameters (B. Polyak and A. Juditsky, 1992), after every step."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = list(network.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take one step in; the first ones weigh more, so that the untrained start is soon forgotten."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, [one.detach() for one in self._parameters], 1 - decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Go on from the network's weights as they are now. They are no untrained start, so that the first steps from
        here weigh no more than others."""
        self.restore([parameter.detach() for parameter in self._parameters], self.steps)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's parameters and their averages; a second call undoes it."""
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def state(self) -> list[Tensor]:
        return self._averages

    @torch.no_grad()
    def restore(self, averages: Sequence[Tensor], steps: int) -> None:
        self.steps = steps
        for ours, theirs in zip(self._averages, averages, strict=True):
            ours.copy_(theirs)


def copied(network: nn.Module) -> Weights:
    """A network's weights as they are now."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def mean(several: Sequence[Mapping[str, Tensor]]) -> Weights:
    """The mean of several networks' weights, each tensor in its own type."""
    first, *_ = several
    return {
        name: torch.stack([weights[name].double() for weights in several]).mean(0).to(first[name].dtype)
        for name in first
    }
