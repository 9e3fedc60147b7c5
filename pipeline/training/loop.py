"""The training of a decoder on features that are already there.

First on people's captions (cross-entropy), then, if asked for, on the score of its own captions (self-critical).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.decoders import Decoder
from pipeline.errors import NumericError, ParamsError
from pipeline.metrics.cider import CiderD
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.distributed import ALONE, ProcessGroup
from pipeline.training.losses import Reward
from pipeline.training.trainer import Epoch, Trainer
from pipeline.training.validation import Validation

if TYPE_CHECKING:
    from pipeline.params import TrainParams


@dataclass(frozen=True)
class Trained:
    """Where the best weights came from; the decoder itself holds them."""

    best: Epoch
    epochs: int
    resumed_after: int = 0
    """Epochs that an earlier, interrupted run had done."""


def train_decoder(
    decoder: Decoder,
    features: Tensor,
    batches: Batches,
    validation: Validation,
    vocabulary: Vocabulary,
    params: "TrainParams",
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
    on_resume: Callable[[int], None] = lambda epochs: None,
    reward: Reward | None = None,
    checkpoint: Checkpoint | None = None,
    processes: ProcessGroup = ALONE,
) -> Trained:
    """Train in place on features (N, R, C) and leave the weights of the best epochs in `decoder`.

    With a `checkpoint` of an interrupted run it goes on after that run's last whole epoch; `on_resume` is told which,
    then `on_epoch` of the earlier ones too. Raises `NumericError` when the loss is not finite (the decoder then has the
    best weights until then), `ParamsError` when the device's memory is too small, `PeerError` when another one of
    `processes` is lost.
    """
    trainer = Trainer(
        decoder,
        features,
        batches,
        vocabulary,
        params,
        seed=seed,
        device=device,
        reward=reward,
        longest=validation.longest(vocabulary),
        processes=processes,
    )
    cider = CiderD(validation.references)
    validation.batches.to(device)
    if state := processes.from_first(checkpoint.load() if checkpoint and processes.first else None):
        trainer.restore(state)
        on_resume(len(trainer.rows))
        for row in trainer.rows:
            on_epoch(row)
    resumed_after = len(trainer.rows)
    while trainer.goes_on():
        number = len(trainer.rows) + 1
        began = time.monotonic()
        try:
            loss, rewarded, tokens = trainer.epoch(number)
        except torch.OutOfMemoryError as error:
            raise ParamsError(
                "the device's memory is too small: lower params.train.batch_size, params.decoder.hidden or "
                f"params.encoder.grid ({str(error).splitlines()[0]})"
            ) from error
        except NumericError:
            trainer.take_best()
            raise
        took = time.monotonic() - began
        score, val_loss = trainer.validate(validation, cider)
        lr = trainer.optimizer.param_groups[0]["lr"]
        row = Epoch(number, loss, val_loss, score, lr, rewarded, time.monotonic() - began, tokens / took)
        trainer.schedule.end_epoch(improved=trainer.keep(row))
        if checkpoint and processes.first:
            checkpoint.save(trainer.state())
        on_epoch(row)
    best, epochs = trainer.best, len(trainer.rows)
    trainer.take_best()
    return Trained(best, epochs, resumed_after)
