"""Learning-rate schedules as factors of `train.lr`."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params import TrainParams

FINAL_FACTOR = 0.1
"""Factor at the end of the cosine."""
PLATEAU_EPOCHS = 2
"""Epochs without improvement after which `plateau` halves the learning rate."""


class Schedule:
    """Linear warm-up, then `cosine` (down to a tenth), `plateau` (halved when validation stalls) or `constant`."""

    def __init__(self, params: "TrainParams", steps_per_epoch: int) -> None:
        self._kind = params.schedule
        self._total_steps = params.epochs * steps_per_epoch
        self._warmup_steps = max(1, round(params.warmup * self._total_steps))
        self._plateau_factor = 1.0
        self._epochs_waited = 0

    def factor(self, step: int) -> float:
        """Factor of step `step`, counted from 0 over all epochs."""
        if step < self._warmup_steps:
            return (step + 1) / self._warmup_steps
        if self._kind == "cosine":
            progress = min(1.0, (step - self._warmup_steps) / max(1, self._total_steps - self._warmup_steps))
            return FINAL_FACTOR + (1 - FINAL_FACTOR) * (1 + math.cos(math.pi * progress)) / 2
        return self._plateau_factor

    def end_epoch(self, *, improved: bool) -> None:
        """Record whether the epoch improved the validation score."""
        self._epochs_waited = 0 if improved else self._epochs_waited + 1
        if self._kind == "plateau" and self._epochs_waited >= PLATEAU_EPOCHS:
            self._plateau_factor *= 0.5
            self._epochs_waited = 0

    def state_dict(self) -> dict[str, float]:
        return {"plateau_factor": self._plateau_factor, "epochs_waited": self._epochs_waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._plateau_factor, self._epochs_waited = state["plateau_factor"], int(state["epochs_waited"])
