"""How the learning rate goes, as a factor of `train.lr`."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params import TrainParams

FINAL = 0.1
"""Where the cosine ends."""
PLATEAU_EPOCHS = 2
"""Epochs without a better score after which a plateau halves the rate."""


class Schedule:
    """The factor at each step; `cosine` falls along half a wave, `plateau` halves when the val score stands still."""

    def __init__(self, params: "TrainParams", steps_per_epoch: int) -> None:
        self._kind = params.schedule
        self._total = params.epochs * steps_per_epoch
        self._warmup = max(1, round(params.warmup * self._total))
        self.reduced = 1.0
        self._waited = 0

    def factor(self, step: int) -> float:
        """For steps counted from 0: up from near zero during the warm-up, then as the kind says."""
        if step < self._warmup:
            return (step + 1) / self._warmup
        if self._kind == "cosine":
            progress = min(1.0, (step - self._warmup) / max(1, self._total - self._warmup))
            return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * progress)) / 2
        return self.reduced

    def end_epoch(self, *, improved: bool) -> None:
        """Tell whether the epoch's score was the best so far."""
        self._waited = 0 if improved else self._waited + 1
        if self._kind == "plateau" and self._waited >= PLATEAU_EPOCHS:
            self.reduced *= 0.5
            self._waited = 0

    def state(self) -> dict[str, float]:
        return {"reduced": self.reduced, "waited": self._waited}

    def restore(self, state: dict[str, float]) -> None:
        self.reduced, self._waited = state["reduced"], int(state["waited"])
