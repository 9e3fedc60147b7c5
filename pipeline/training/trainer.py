"""The training loop: cross-entropy epochs, then self-critical ones if asked for, with early stopping.

Shapes: B captions of a batch, M images, S samples per image, R regions, C channels.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pipeline.accel.cuda_graphs import CaptureError
from pipeline.accel.decoders import accelerate
from pipeline.decoders.decoder import Decoder
from pipeline.device import resolve_precision, tensor_float_32
from pipeline.errors import NumericError
from pipeline.training.batches import Batch, Batches, epoch_seed
from pipeline.training.caption_sampler import CaptionSampler
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.distributed import SINGLE_PROCESS, ProcessGroup
from pipeline.training.feature_source import FeatureSource, with_features
from pipeline.training.graphed_step import GraphedStep, Term, static_shape, static_terms
from pipeline.training.history import EpochMetrics, History
from pipeline.training.losses import BagOfWords, CaptionLoss, Reward, scheduled_sampling, self_critical_batch
from pipeline.training.schedule import Schedule
from pipeline.training.validation import Validation
from pipeline.training.weight_averaging import exponential_moving_average

if TYPE_CHECKING:
    from pipeline.params import TrainParams

_PASS_OFFSET = 500_009
"""Added to the epoch number for each further pass over the captions, so that passes are ordered differently."""
_RANK_OFFSET = 500_009
"""Added to the seed per rank, so that each process draws its own random numbers."""


@dataclass(frozen=True)
class TrainingData:
    """The images of the train split with their captions."""

    features: FeatureSource
    batches: Batches
    reward: Reward | None = None
    """Required for self-critical training."""


class Trainer:
    """Trains a decoder in place, and holds everything that changes meanwhile."""

    def __init__(
        self,
        decoder: Decoder,
        data: TrainingData,
        validation: Validation,
        params: "TrainParams",
        *,
        seed: int,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.device = processes.device
        self.data, self.validation, self.params, self.seed, self.processes = data, validation, params, seed, processes
        # On a CPU, training uses the plain modules; the accelerated ones are for inference.
        self.decoder = accelerate(decoder, self.device) if self.device.type == "cuda" else decoder
        bag = None
        if params.bag_of_words:
            vocabulary = decoder.embedding.num_embeddings
            bag = BagOfWords(decoder.hidden, vocabulary, data.batches.captions, data.batches.images)
        self.loss = CaptionLoss(
            decoder, label_smoothing=params.label_smoothing, bag=bag, bag_weight=params.bag_of_words
        ).to(self.device)
        cuda_graphs = self.device.type == "cuda" and processes.count == 1 and not params.scheduled_sampling
        self.optimizer = torch.optim.AdamW(
            self.loss.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True, capturable=cuda_graphs
        )
        self.lr = params.lr
        self.schedule = Schedule(params, len(data.batches))
        self.ema = exponential_moving_average(decoder, params.ema) if params.ema else None
        self.bfloat16 = in_bfloat16(params.precision, self.device)
        self.tf32 = params.precision == "auto" and self.device.type == "cuda"
        self.sampler = CaptionSampler(
            decoder, samples=params.scst.samples, max_length=validation.max_length, bfloat16=self.bfloat16
        )
        self.graphed_step: GraphedStep | None = None
        if cuda_graphs:
            self.use_cuda_graphs()
        self.history = History(keep=params.average_best, by_score=validation.score_decides)
        self.cross_entropy_epochs: int | None = None
        """Epochs before self-critical training; None until it starts."""
        self.mean_validation: tuple[float, float] | None = None
        """CIDEr-D and loss of the mean of the best epochs, where there are several."""

    def use_cuda_graphs(self) -> None:
        """Sample captions and compute steps as CUDA graphs, as long as they can be captured."""
        self.sampler.use_cuda_graphs()
        self.graphed_step = GraphedStep(
            self.loss,
            self.optimizer,
            self.ema,
            clip=self.params.clip,
            ema_decay=self.params.ema,
            bfloat16=self.bfloat16,
        )

    def run(
        self,
        checkpoint: Checkpoint | None = None,
        *,
        on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
        on_resume: Callable[[int], None] = lambda epochs: None,
    ) -> None:
        """Train to the end; the decoder then has the best weights, see `load_best_weights`.

        If `checkpoint` holds the state of an interrupted run, training resumes after that run's last epoch; `on_resume`
        gets the number of epochs, and `on_epoch` their metrics. Raises `NumericError` if the loss or a weight is not
        finite (the decoder then has the best weights so far), `PeerError` if another one of the processes is lost.
        """
        first = self.processes.rank == 0
        state = self.processes.from_first(checkpoint.load() if checkpoint and first else None)
        if state:
            self.load_state_dict(state)
            on_resume(len(self.history))
            for metrics in self.history.epochs:
                on_epoch(metrics)
        try:
            while self.start_epoch():
                metrics = self.run_epoch()
                if checkpoint and first:
                    checkpoint.save(self.state_dict())
                on_epoch(metrics)
        except NumericError:
            self.load_best_weights()
            raise
        self.load_best_weights()

    def start_epoch(self) -> bool:
        """Whether another epoch is due; starts self-critical training after the last cross-entropy epoch."""
        done, params = len(self.history), self.params
        waited = self.history.epochs_without_progress
        if self.cross_entropy_epochs is not None:
            self_critical_epochs = done - self.cross_entropy_epochs
            return self_critical_epochs < params.scst.epochs and min(waited, self_critical_epochs) < params.patience
        if done < params.epochs and waited < params.patience:
            return True
        if params.scst.epochs:
            self.cross_entropy_epochs = done
            self.load_best_weights()
            if self.ema:
                self.ema.module.load_state_dict(self.decoder.state_dict())
            self.optimizer.state.clear()  # its momentum belongs to the other loss
        return bool(params.scst.epochs)

    def load_best_weights(self) -> None:
        """Load the mean of the weights of the best epochs, or those of the best one if the mean validates worse."""
        self.history.load_mean_weights(self.decoder)
        if len(self.history.best_weights) > 1:
            self.mean_validation = self.validate(self.decoder)
            if not self.history.as_good_as_best(self.mean_validation):
                self.history.load_best_epoch(self.decoder)

    def validate(self, decoder: Decoder) -> tuple[float, float] | None:
        """CIDEr-D and loss of the val split, which the first process computes; None where they are not finite."""
        found: tuple[float, float] | None = None
        # The last step can make weights infinite, or so large that the logits are.
        if self.processes.rank == 0 and all(bool(weights.isfinite().all()) for weights in decoder.parameters()):
            with suppress(NumericError):
                cider_d = self.validation.cider_d(decoder)
                with self._autocast():
                    found = cider_d, self.validation.loss(decoder)
        return cast(tuple[float, float] | None, self.processes.from_first(found))

    def run_epoch(self) -> EpochMetrics:
        """Train for one epoch, validate, and keep the weights if they are among the best. Raises `NumericError`."""
        number = len(self.history) + 1
        began = time.monotonic()
        torch.manual_seed(self._process_seed(number))  # dropout and scheduled sampling
        if self.loss.bag:  # DistributedDataParallel waits for the gradient of every parameter that requires one
            self.loss.bag.requires_grad_(self.cross_entropy_epochs is None or self.params.scst.cross_entropy > 0)
        loss = self.processes.parallel(self.loss).train()
        epoch = self._cross_entropy_epoch if self.cross_entropy_epochs is None else self._self_critical_epoch
        with tensor_float_32() if self.tf32 else nullcontext():
            train_loss, reward, tokens = epoch(number, loss)
        tokens_per_second = tokens / (time.monotonic() - began)
        decoder = cast(Decoder, self.ema.module) if self.ema else self.decoder
        found = self.validate(decoder)
        if found is None:
            raise not_finite(
                f"the decoder's weights or probabilities are not finite after epoch {number}", self._lr_param
            )
        val_cider_d, val_loss = found
        seconds = time.monotonic() - began
        metrics = EpochMetrics(number, train_loss, val_loss, val_cider_d, self.lr, reward, seconds, tokens_per_second)
        self.history.add(metrics, decoder)
        self.schedule.end_epoch(improved=not self.history.epochs_without_progress)
        return metrics

    def _cross_entropy_epoch(self, number: int, loss: nn.Module) -> tuple[float, float, int]:
        """Mean loss per token, 0, and the number of tokens."""
        done, epochs = (number - 1, self.params.epochs - 1) if self.params.epochs > 1 else (1, 1)
        sampling_probability = self.params.scheduled_sampling * done / epochs
        total, tokens = torch.zeros((), device=self.device), 0
        batch_losses: list[Tensor] = []
        for step, (batch, features) in enumerate(self._batches(number)):
            if sampling_probability:
                with self._autocast():
                    batch = scheduled_sampling(self.decoder, features, batch, sampling_probability)
            self.lr = self.params.lr * self.schedule.factor((number - 1) * len(self.data.batches) + step)
            batch_losses.append(self._step(loss, [Term(features, batch)]))
            if self.device.type == "cpu":  # reading a loss waits for a GPU: there all are checked at the end
                check_finite(batch_losses[-1:], number, step, lr=self._lr_param)
            total += batch_losses[-1] * batch.tokens
            tokens += batch.tokens
        check_finite(batch_losses, number, lr=self._lr_param)
        return float(total) / tokens, 0.0, tokens

    def _self_critical_epoch(self, number: int, loss: nn.Module) -> tuple[float, float, int]:
        """Mean loss per token, weighted by images per step; mean reward; number of sampled tokens."""
        assert self.data.reward is not None
        params = self.params.scst
        images = list(self.data.batches.image_epoch(number, max(1, self.params.batch_size // params.samples)))
        shares = [self.processes.share(whole) for whole in images]
        shares = [share if len(share) else whole[:1] for share, whole in zip(shares, images, strict=True)]
        # Captions for the cross-entropy term: endless passes over the training captions, each in its own order.
        references = chain.from_iterable(self._batches(number + again * _PASS_OFFSET) for again in count())
        total, rewards, sampled_tokens = 0.0, 0.0, 0
        for step, features in enumerate(self.data.features.batches(shares)):
            sampled = self._sample(features, self._step_seed(number, step))
            samples, reward = self_critical_batch(
                sampled, shares[step], self.data.reward, max_length=self.validation.max_length
            )
            idle = self.processes.rank >= len(images[step])
            own = [0.0, 0.0] if idle else [samples.tokens, reward * len(shares[step])]
            tokens, step_reward = self.processes.sum(torch.tensor(own, device=self.device)).tolist()
            samples = replace(samples, tokens=int(tokens))
            factor = 0.0 if idle else 1 - params.cross_entropy
            terms = [Term(features.repeat_interleave(params.samples, 0), samples.to(self.device), factor)]
            if params.cross_entropy:
                batch, batch_features = next(references)
                terms.append(Term(batch_features, batch, params.cross_entropy))
            if self.graphed_step:
                terms = static_terms(terms, max(len(images[0]) * params.samples, self.data.batches.batch_size))
            self.lr = params.lr
            batch_loss = self._step(loss, terms)
            check_finite([batch_loss], number, step, lr=self._lr_param)
            total += float(batch_loss) * len(images[step])
            rewards += step_reward
            sampled_tokens += int(tokens)
        count_of_images = sum(map(len, images))
        return total / count_of_images, 100 * rewards / count_of_images, sampled_tokens

    def _batches(self, number: int) -> Iterator[tuple[Batch, Tensor]]:
        """This process's share of the batches of an epoch, with their features (B, R, C)."""
        batches = self.data.batches.epoch(number, self.processes)
        if self.graphed_step:
            batches = (static_shape(batch, self.data.batches.batch_size) for batch in batches)
        return with_features(batches, self.data.features, self.device)

    def _step(self, loss: nn.Module, terms: Sequence[Term]) -> Tensor:
        """One step on captions; return the sum of the terms."""
        if self.graphed_step:
            try:
                return self.graphed_step(terms, self.lr)
            except CaptureError as error:
                self._stop_using_cuda_graphs(error)
        with self._autocast():
            parts = [term.factor * (loss(term.features, term.batch) / term.batch.tokens) for term in terms]
        return self._update(sum(parts[1:], parts[0]))

    def _sample(self, features: Tensor, seed: int) -> Tensor:
        """Tokens (M S, T) of sampled captions."""
        try:
            return self.sampler(features, seed)
        except CaptureError as error:
            self._stop_using_cuda_graphs(error)
            return self.sampler(features, seed)

    def _stop_using_cuda_graphs(self, reason: CaptureError) -> None:
        self.graphed_step = self.sampler.graphs = None
        warnings.warn(f"training without CUDA graphs, which is slower: {reason}", stacklevel=3)

    def _update(self, loss: Tensor) -> Tensor:
        """One optimizer step; return the loss of all processes. `loss` is this process's part of it."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.processes.collective():
            (loss * self.processes.count).backward()  # DistributedDataParallel averages the gradients
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        nn.utils.clip_grad_norm_(self.loss.parameters(), self.params.clip)
        self.optimizer.step()
        if self.ema:
            self.ema.update_parameters(self.decoder)
        return self.processes.sum(loss.detach())

    def _process_seed(self, number: int) -> int:
        """The seed of an epoch; each process has its own."""
        return epoch_seed(self.seed, number) + _RANK_OFFSET * self.processes.rank

    def _step_seed(self, number: int, step: int) -> int:
        """The seed of the sampling in one step; no two steps of any epochs share it."""
        return epoch_seed(self._process_seed(number), step) % 2**63  # torch takes 64 bits

    @property
    def _lr_param(self) -> str:
        """The param that sets the learning rate of this epoch."""
        return "params.train.lr" if self.cross_entropy_epochs is None else "params.train.scst.lr"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds."""
        return {
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "history": self.history.state_dict(),
            "cross_entropy_epochs": self.cross_entropy_epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.history.load_state_dict(state["history"], self.device)
        self.cross_entropy_epochs = state["cross_entropy_epochs"]


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether `train.precision` means bfloat16 on `device`.

    On a GPU `auto` means TF32: at batches of 64 bfloat16 is slower, or at most 2% faster (docs/benchmarks.md).
    """
    if precision == "auto" and device.type == "cuda":
        return False
    return resolve_precision(precision, device, "params.train.precision") == "bfloat16"


def not_finite(problem: str, lr: str) -> NumericError:
    """The error of a training that diverges; `lr` is the param of its learning rate."""
    return NumericError(f"{problem}; lower {lr} or params.train.clip")


def check_finite(losses: Sequence[Tensor], epoch: int, first_step: int = 0, *, lr: str) -> None:
    """Raise `NumericError` for the first loss that is not finite; the losses are those of successive steps."""
    for step, loss in enumerate(torch.stack(list(losses)).tolist(), first_step + 1):
        if not math.isfinite(loss):
            raise not_finite(f"the loss is {loss} in epoch {epoch}, step {step}", lr)
