"""The training step as CUDA graphs: forward, backward, clipping, optimizer and weight averaging in one replay.

The plain twin is `Trainer._update`. A graph has static shapes, so batches are padded: each caption length is rounded up
to a multiple of `LENGTH_STEP`, and the last batch is filled with captions without real tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from pipeline.accel.cuda_graphs import GraphedFunction, uncaptured_steps
from pipeline.tokens import PAD
from pipeline.training.batches import Batch
from pipeline.training.losses import CaptionLoss
from pipeline.training.weight_averaging import ema_decay

LENGTH_STEP = 4


@dataclass(frozen=True)
class Term:
    """A summand of the loss: the mean loss per token of a batch, times a factor."""

    features: Tensor
    """(B, R, C)"""
    batch: Batch
    factor: float = 1.0


def static_shape(batch: Batch, batch_size: int, min_steps: int = 0) -> Batch:
    """Pad a batch to `batch_size` captions and a multiple of `LENGTH_STEP` steps; its loss stays the same."""
    captions, steps = batch.inputs.shape
    longer = max(steps, min_steps)
    padding = (0, longer + -longer % LENGTH_STEP - steps, 0, batch_size - captions)
    return replace(
        batch,
        images=torch.cat([batch.images, batch.images[:1].expand(batch_size - captions)]),
        inputs=functional.pad(batch.inputs, padding, value=PAD),
        targets=functional.pad(batch.targets, padding, value=PAD),
        positions=None,
        weights=None if batch.weights is None else functional.pad(batch.weights, padding),
    )


def static_terms(terms: Sequence[Term], batch_size: int) -> list[Term]:
    """Pad the batches to `batch_size` captions and to steps of the longest one, so that few graphs are captured."""
    longest = max(term.batch.inputs.shape[1] for term in terms)

    def pad(term: Term) -> Term:
        features = functional.pad(term.features, (0, 0, 0, 0, 0, batch_size - len(term.features)))
        return Term(features, static_shape(term.batch, batch_size, longest), term.factor)

    return [pad(term) for term in terms]


class GraphedStep:
    """One optimizer step on batches of static shape."""

    def __init__(
        self,
        loss: CaptionLoss,
        optimizer: torch.optim.Optimizer,
        ema: AveragedModel | None,
        *,
        clip: float,
        ema_decay: float,
        bfloat16: bool,
    ) -> None:
        """`optimizer` is fused and capturable."""
        self._loss, self._optimizer, self._ema = loss, optimizer, ema
        self._clip, self._ema_decay, self._bfloat16 = clip, ema_decay, bfloat16
        self._graphs = GraphedFunction(self.compute, self._state)

    def __call__(self, terms: Sequence[Term], lr: float) -> Tensor:
        """Update the weights; return the sum of the terms. Raises `CaptureError`; nothing has changed then."""
        device = terms[0].features.device
        if not self._optimizer.state:
            self._initialize_optimizer(device)
        averaged = int(self._ema.n_averaged) if self._ema else 0
        factors = [term.factor / term.batch.tokens for term in terms]
        numbers = torch.tensor([lr, ema_decay(self._ema_decay, averaged), *factors])
        if device.type == "cuda":
            numbers = numbers.pin_memory().to(device, non_blocking=True)
        inputs = [numbers]
        for term in terms:
            batch, none = term.batch, numbers[:0]
            weights = none if batch.weights is None else batch.weights
            inputs += [term.features, batch.images, batch.inputs, batch.targets, weights]
        loss = self._graphs(*inputs)
        if self._ema:
            self._ema.n_averaged += 1
        return loss

    def compute(self, numbers: Tensor, *tensors: Tensor) -> Tensor:
        """One optimizer step, the function that is captured.

        `numbers` are the learning rate, the decay of the average and the factor of each term. Of each term follow
        features, images, inputs, targets, and weights, which are empty if the batch has none.
        """
        lr, decay, *factors = numbers.unbind()
        self._optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=numbers.device)
        # The cache of autocast would keep casts of the weights from one call to the next.
        with torch.autocast(numbers.device.type, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False):
            for index, factor in enumerate(factors):
                features, images, inputs, targets, weights = tensors[5 * index : 5 * index + 5]
                of_tokens = weights if len(weights) else None
                batch = Batch(images, inputs, targets, positions=None, tokens=0, weights=of_tokens)
                loss = loss + factor * self._loss(features, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._loss.parameters(), self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        if self._ema:
            self._average(self._ema, decay)
        return loss.detach()

    @torch.no_grad()
    def _average(self, ema: AveragedModel, decay: Tensor) -> None:
        """`ema.update_parameters`, which takes the decay as a Python number."""
        for average, weight in zip(ema.module.parameters(), self._loss.decoder.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def _initialize_optimizer(self, device: torch.device) -> None:
        """Create the optimizer's state, which it would otherwise do in the first step, that is in the capture."""
        for parameter in self._loss.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for group in self._optimizer.param_groups:
            group["lr"] = torch.zeros((), device=device)  # with a learning rate of 0 a step changes no weight
        with uncaptured_steps():
            self._optimizer.step()
        for state in self._optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def _state(self) -> list[Tensor]:
        averages = list(self._ema.module.parameters()) if self._ema else []
        moments = [tensor for state in self._optimizer.state.values() for tensor in state.values()]
        return [*self._loss.parameters(), *averages, *moments]
