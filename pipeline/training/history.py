"""Metrics of all epochs, selection of the best ones, and early stopping."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pipeline.training.weight_averaging import Weights, load_mean, weights_of


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean training loss per token, with dropout, label smoothing and the bag of words, or the self-critical loss."""
    val_loss: float
    """Cross-entropy of the val references in nats per token, without dropout and label smoothing."""
    val_cider_d: float
    """CIDEr-D of the captions of the val images that beam search finds, times 100."""
    lr: float
    """Learning rate of the last step."""
    reward: float
    """Mean CIDEr-D of the sampled captions in self-critical epochs, times 100; else 0."""
    seconds: float
    """Training and validation."""
    tokens_per_second: float
    """Real tokens per second of training, over all processes."""


def _selection_key(val_cider_d: float, val_loss: float, by_score: bool) -> tuple[float, float]:
    """Larger is better."""
    return val_cider_d if by_score else 0.0, -val_loss


def _progress_key(metrics: EpochMetrics, by_score: bool) -> tuple[float, float]:
    """What early stopping waits for: a better score, or a lower val loss while every caption still scores 0."""
    score = metrics.val_cider_d if by_score else 0.0
    return score, 0.0 if score else -metrics.val_loss


class History:
    """The metrics of all epochs and the weights of the best ones."""

    def __init__(self, keep: int, *, by_score: bool) -> None:
        """`keep` is the number of epochs whose weights are kept. Without `by_score` the val loss ranks epochs."""
        self.epochs: list[EpochMetrics] = []
        self.best_weights: list[tuple[int, Weights]] = []
        """Number and weights of the best epochs, the best one first."""
        self.by_score = by_score
        self._keep = keep

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def best(self) -> EpochMetrics:
        """The epoch of the highest score, of equal scores that of the lowest val loss, else the first."""
        return max(self.epochs, key=self._key)

    @property
    def epochs_without_progress(self) -> int:
        """Number of epochs since the last one that improved on all before it."""
        if not self.epochs:
            return 0
        keys = [_progress_key(metrics, self.by_score) for metrics in self.epochs]
        return len(keys) - 1 - keys.index(max(keys))

    def add(self, metrics: EpochMetrics, network: nn.Module) -> None:
        """Record an epoch, and keep the weights of `network` if they are among the best."""
        self.epochs.append(metrics)
        self.best_weights.append((metrics.epoch, weights_of(network)))
        self.best_weights.sort(key=lambda kept: self._key(self.epochs[kept[0] - 1]), reverse=True)
        del self.best_weights[self._keep :]

    def load_mean_weights(self, network: nn.Module) -> None:
        """Load the mean of the weights of the best epochs; without an epoch `network` stays as it is."""
        if self.best_weights:
            load_mean(network, [weights for _, weights in self.best_weights])

    def load_best_epoch(self, network: nn.Module) -> None:
        """Load the weights of the best epoch alone."""
        network.load_state_dict(self.best_weights[0][1])

    def as_good_as_best(self, validation: tuple[float, float] | None) -> bool:
        """Whether a CIDEr-D and a loss of the val split are at least as good as those of the best epoch."""
        return validation is not None and _selection_key(*validation, self.by_score) >= self._key(self.best)

    def _key(self, metrics: EpochMetrics) -> tuple[float, float]:
        return _selection_key(metrics.val_cider_d, metrics.val_loss, self.by_score)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epochs": [asdict(metrics) for metrics in self.epochs],
            "best_weights": [list(kept) for kept in self.best_weights],
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.epochs = [EpochMetrics(**metrics) for metrics in state["epochs"]]
        self.best_weights = [
            (epoch, {name: weight.to(device) for name, weight in weights.items()})
            for epoch, weights in state["best_weights"]
        ]
