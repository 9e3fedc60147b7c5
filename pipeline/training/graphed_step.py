"""The cross-entropy step as CUDA graphs: forward, backward, clipping, optimizer and weight averaging in one replay.

The plain twin is `Trainer._update`. A graph has static shapes, so batches are padded: each caption length is rounded up
to a multiple of `LENGTH_STEP`, and the last batch is filled with captions without real tokens.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from pipeline.accel.cuda_graphs import GraphedFunction
from pipeline.tokens import PAD
from pipeline.training.batches import Batch
from pipeline.training.losses import CaptionLoss
from pipeline.training.weight_averaging import ema_decay

LENGTH_STEP = 4


def static_shape(batch: Batch, batch_size: int) -> Batch:
    """Pad a batch to `batch_size` captions and a multiple of `LENGTH_STEP` steps; its loss stays the same."""
    captions, steps = batch.inputs.shape
    padding = (0, -steps % LENGTH_STEP, 0, batch_size - captions)
    return replace(
        batch,
        images=torch.cat([batch.images, batch.images[:1].expand(batch_size - captions)]),
        inputs=functional.pad(batch.inputs, padding, value=PAD),
        targets=functional.pad(batch.targets, padding, value=PAD),
        positions=None,
    )


class GraphedStep:
    """One optimizer step on a batch of static shape."""

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

    def __call__(self, features: Tensor, batch: Batch, lr: float) -> Tensor:
        """Update the weights; return the mean loss per token. Raises `CaptureError`; nothing has changed then."""
        if not self._optimizer.state:
            self._initialize_optimizer(features.device)
        averaged = int(self._ema.n_averaged) if self._ema else 0
        numbers = torch.tensor([batch.tokens, lr, ema_decay(self._ema_decay, averaged)])
        if features.is_cuda:
            numbers = numbers.pin_memory().to(features.device, non_blocking=True)
        loss = self._graphs(features, batch.images, batch.inputs, batch.targets, numbers)
        if self._ema:
            self._ema.n_averaged += 1
        return loss

    def compute(self, features: Tensor, images: Tensor, inputs: Tensor, targets: Tensor, numbers: Tensor) -> Tensor:
        """What is captured; `numbers` are the batch's real tokens, the learning rate and the decay of the average."""
        tokens, lr, decay = numbers.unbind()
        batch = Batch(images, inputs, targets, positions=None, tokens=0)
        self._optimizer.zero_grad(set_to_none=True)
        # The cache of autocast would keep casts of the weights from one call to the next.
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self._bfloat16, cache_enabled=False):
            loss: Tensor = self._loss(features, batch) / tokens
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
        self._optimizer.step()
        for state in self._optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def _state(self) -> list[Tensor]:
        averages = list(self._ema.module.parameters()) if self._ema else []
        moments = [tensor for state in self._optimizer.state.values() for tensor in state.values()]
        return [*self._loss.parameters(), *averages, *moments]
