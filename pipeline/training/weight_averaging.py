"""Weight averaging over training steps (EMA) and over the best epochs, with `torch.optim.swa_utils`."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Weights = dict[str, Tensor]
Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay(decay: float, steps: int) -> float:
    """Decay after `steps` steps: small at first, so that untrained weights are soon forgotten, then `decay`."""
    return min(decay, (1 + steps) / (10 + steps)) if steps else 0.0


def exponential_moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters of `network` (B. Polyak and A. Juditsky, 1992).

    `update_parameters(network)` is called after every step; `module` is a copy of `network` with the averaged weights.
    """

    def update(averages: Tensors, parameters: Tensors, steps: Tensor | int) -> None:
        get_ema_multi_avg_fn(ema_decay(decay, int(steps)))(averages, parameters, steps)

    average = AveragedModel(network, multi_avg_fn=update)
    for module in average.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # cuDNN needs an LSTM's weights in one piece of memory; the copy has them apart
    return average


def weights_of(network: nn.Module) -> Weights:
    """A copy of the weights."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@torch.no_grad()
def load_mean(network: nn.Module, several: Iterable[Mapping[str, Tensor]]) -> None:
    """Load the mean of several weights of one network into `network`."""
    average = AveragedModel(network)
    for weights in several:
        network.load_state_dict(weights)
        average.update_parameters(network)
    network.load_state_dict(average.module.state_dict())
