"""The training of a decoder on features that are already there.

Cross-entropy over the real tokens, AdamW with a cosine schedule, and early stopping on the CIDEr-D of captions that the
decoder generates for the val pictures: the teacher-forced loss goes on falling after the captions have become worse.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.captions.vocabulary import Vocabulary
from pipeline.decoders import Decoder
from pipeline.decoders.search import Search, beam_search
from pipeline.errors import NumericError
from pipeline.metrics.cider import CiderD
from pipeline.training.batches import Batches

if TYPE_CHECKING:
    from pipeline.params import TrainParams

FINAL_LR = 0.1
"""The learning rate at the end, as a share of that at the start."""
LONGEST = 240
"""Tokens of a caption that is generated while training: one absurd reference must not make every epoch wait."""
_WARMUP = 0.02
"""Share of the steps in which the learning rate rises from zero."""


@dataclass(frozen=True)
class Epoch:
    """One row of metrics/training.csv."""

    epoch: int
    train_loss: float
    """Mean cross-entropy per token, in nats, with dropout and label smoothing."""
    val_cider_d: float
    """CIDEr-D of greedy captions of the val pictures, times 100."""
    lr: float
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Validation:
    """Pictures whose captions decide when to stop."""

    features: Tensor
    """(N, R, C) float16."""
    references: Sequence[Sequence[str]]
    """Tokenised, joined by spaces."""


@dataclass(frozen=True)
class Trained:
    """Where the best weights came from; the decoder itself holds them."""

    best: Epoch
    epochs: int


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
) -> Trained:
    """Train in place on features (N, R, C) and leave the weights of the best epoch in `decoder`.

    Raises `NumericError` when the loss is not finite.
    """
    decoder.to(device)
    features = features.to(device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(params.epochs * len(batches)))
    cider = CiderD(validation.references)
    longest = max(len(reference.split()) for references in validation.references for reference in references)
    longest = min(LONGEST, 2 * longest if " " in vocabulary.tokens else longest)  # spaces are no tokens to the metrics
    best: Epoch | None = None
    weights = deepcopy(decoder.state_dict())
    number = 0
    for number in range(1, params.epochs + 1):
        began = time.monotonic()
        torch.manual_seed(seed * 1_000_003 + number)  # dropout of this epoch; a resumed run draws the same
        lr = optimizer.param_groups[0]["lr"]
        loss, tokens = _epoch(decoder, features, batches, number, optimizer, schedule, params, device)
        took = time.monotonic() - began
        captions = greedy_captions(decoder, validation.features, vocabulary, longest, device)
        score = 100 * float(cider.score(captions).mean())
        row = Epoch(number, loss, score, lr, time.monotonic() - began, tokens / took)
        on_epoch(row)
        if best is None or score > best.val_cider_d:
            best, weights = row, deepcopy(decoder.state_dict())
        elif number - best.epoch >= params.patience:
            break
    decoder.load_state_dict(weights)
    assert best is not None
    return Trained(best, number)


def _epoch(
    decoder: Decoder,
    features: Tensor,
    batches: Batches,
    number: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    params: "TrainParams",
    device: torch.device,
) -> tuple[float, int]:
    """Mean loss per token and the number of tokens."""
    decoder.train()
    criterion = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)
    total, tokens = 0.0, 0
    for step, batch in enumerate(batches.epoch(number), start=1):
        real = batch.real.to(device)
        logits = decoder(features[batch.images.to(device)].float(), batch.inputs.to(device), real)
        loss = criterion(logits, batch.targets.to(device)[real])
        if not math.isfinite(value := loss.item()):
            raise NumericError(
                f"the loss is {value} in epoch {number}, step {step}; lower params.train.lr or params.train.clip"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), params.clip)
        optimizer.step()
        schedule.step()
        total += value * len(logits)
        tokens += len(logits)
    return total / tokens, tokens


def greedy_captions(
    decoder: Decoder, features: Tensor, vocabulary: Vocabulary, max_length: int, device: torch.device
) -> list[str]:
    """One caption per picture of features (N, R, C)."""
    captions = []
    for chunk in features.split(256):
        found = beam_search(decoder, chunk.to(device).float(), Search(beam_size=1, max_length=max_length))
        captions += [vocabulary.for_metrics(vocabulary.decode(best.tokens)) for best, *_ in found]
    return captions


def _cosine(steps: int) -> Callable[[int], float]:
    """The factor of the learning rate by step: up from zero, then down along a half cosine."""
    warmup = max(1, round(_WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return FINAL_LR + (1 - FINAL_LR) * (1 + math.cos(math.pi * progress)) / 2

    return factor


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Within, torch chooses algorithms that give the same bits each time, on `threads` threads (0: all cores)."""
    before = torch.get_num_threads()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
