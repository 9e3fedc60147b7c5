"""Everything that changes while a decoder is trained."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.decoders import Decoder
from pipeline.device import resolve_precision
from pipeline.errors import NumericError
from pipeline.metrics.cider import CiderD
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batch, Batches, epoch_seed
from pipeline.training.distributed import ALONE, ProcessGroup
from pipeline.training.losses import BagOfWords, Reward, cross_entropy, self_critical
from pipeline.training.schedule import Schedule
from pipeline.training.validation import Validation, greedy_captions
from pipeline.training.weight_averaging import MovingAverage, Weights, copied, mean

if TYPE_CHECKING:
    from pipeline.params import TrainParams


@dataclass(frozen=True)
class Epoch:
    """One row of metrics/training.csv."""

    epoch: int
    train_loss: float
    """What is minimised, mean per token: cross-entropy in nats with dropout, label smoothing and the bag of words; in
    self-critical epochs their loss."""
    val_loss: float
    """Cross-entropy of people's captions of the val pictures in nats per token, without dropout and smoothing."""
    val_cider_d: float
    """CIDEr-D of greedy captions of the val pictures, times 100."""
    lr: float
    """Of the epoch's last step."""
    reward: float
    """Mean CIDEr-D of the sampled captions in self-critical epochs, times 100; else 0."""
    seconds: float
    tokens_per_second: float

    @property
    def selection_key(self) -> tuple[float, float]:
        """What is compared: the score. While nothing that the decoder says is right yet, every score is 0, and the val
        loss decides."""
        return self.val_cider_d, 0.0 if self.val_cider_d else -self.val_loss


class Trainer:
    """Everything that changes while a decoder is trained, and one epoch of it."""

    def __init__(
        self,
        decoder: Decoder,
        features: Tensor,
        batches: Batches,
        vocabulary: Vocabulary,
        params: "TrainParams",
        *,
        seed: int,
        device: torch.device,
        reward: Reward | None,
        longest: int,
        processes: ProcessGroup = ALONE,
    ) -> None:
        self.decoder = decoder.to(device)
        self.features = decoder.condense(features).to(device)
        batches.to(device)
        self.batches, self.vocabulary, self.params = batches, vocabulary, params
        self.seed, self.device, self.reward, self.longest, self.processes = seed, device, reward, longest, processes
        self.bag: BagOfWords | None = None
        if params.bag_of_words:
            self.bag = BagOfWords(decoder.hidden, len(vocabulary), batches.tokens, batches.images).to(device)
        self.taught = nn.ModuleList([decoder] if self.bag is None else [decoder, self.bag])
        self.optimizer = torch.optim.AdamW(
            self.taught.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True
        )
        self.schedule = Schedule(params, len(batches))
        self._half = resolve_precision(params.precision, device, "params.train.precision") == "bfloat16"
        self.average = MovingAverage(decoder, params.ema) if params.ema else None
        self.rows: list[Epoch] = []
        self.kept: list[tuple[int, Weights]] = []
        """The best epochs and their weights, best first."""
        self.switched_after = 0
        """Epochs on people's captions, once the self-critical ones have begun."""

    @property
    def best(self) -> Epoch:
        return self._row(0)

    def epoch(self, number: int) -> tuple[float, float, int]:
        """Mean loss per token, mean reward, and the number of tokens. Raises `NumericError`."""
        torch.manual_seed(self._seed_of(number))  # dropout; a resumed run draws the same
        self.processes.align(self.taught)
        self.decoder.train()
        if self.switched_after:
            return self._self_critical_epoch(number)
        total, tokens = torch.zeros((), device=self.device), 0
        losses: list[Tensor] = []
        own_words = self.params.scheduled_sampling * (number - 1) / max(1, self.params.epochs - 1)
        for step, batch in enumerate(self.batches.epoch(number, self.processes)):
            with self._precision():
                loss, ours = self._taught(batch, own_words)
            (read,) = self.processes.total(ours)
            done = (number - 1) * len(self.batches) + step
            loss = self._descend(_part(loss, ours, read), self.params.lr * self.schedule.factor(done))
            losses.append(loss)
            if own_words or self.device.type == "cpu":  # a GPU is asked once, at the end: each answer waits for it
                _refuse_infinite([loss], number, step)
            total += loss * read
            tokens += int(read)
        _refuse_infinite(losses, number)
        return float(total) / tokens, 0.0, tokens

    def _taught(self, batch: Batch, own_words: float = 0.0) -> tuple[Tensor, int]:
        """The loss on people's captions, and its number of tokens; both zero where there is no caption."""
        if not len(batch.images):
            return torch.zeros((), device=self.device), 0
        loss = cross_entropy(
            self.decoder,
            self.features[batch.images].float(),
            batch,
            label_smoothing=self.params.label_smoothing,
            own_words=own_words,
            bag=self.bag,
            bag_weight=self.params.bag_of_words,
        )
        return loss, batch.tokens

    def _self_critical_epoch(self, number: int) -> tuple[float, float, int]:
        assert self.reward is not None
        params = self.params.scst
        total, rewarded, pictures = 0.0, 0.0, 0
        # As many of people's captions as it takes, from the start again in another order.
        people = chain.from_iterable(self.batches.epoch(number + again * 500_009, self.processes) for again in count())
        for step, chosen in enumerate(self.batches.pictures(number, max(1, self.params.batch_size // params.samples))):
            rows = self.processes.share(chosen)
            with self._precision():
                loss, reward, ours = torch.zeros((), device=self.device), 0.0, 0
                if len(rows):
                    loss, reward, ours = self_critical(
                        self.decoder,
                        self.features[rows.to(self.device)].float(),
                        rows,
                        self.reward,
                        samples=params.samples,
                        max_length=self.longest,
                        seed=self._seed_of(number) + step,
                    )
                batch = next(people) if params.cross_entropy else None
                taught, words = (loss, 0) if batch is None else self._taught(batch)
            said, read, gained = self.processes.total(ours, words, reward * len(rows))
            loss = _part(loss, ours, said)
            if batch is not None:
                loss = (1 - params.cross_entropy) * loss + params.cross_entropy * _part(taught, words, read)
            loss = self._descend(loss, params.lr)
            _refuse_infinite([loss], number, step)
            total += float(loss) * len(chosen)
            rewarded += gained
            pictures += len(chosen)
        return total / pictures, 100 * rewarded / pictures, pictures * params.samples

    def _seed_of(self, number: int) -> int:
        """Of what a process draws in an epoch: not the same as another one."""
        return epoch_seed(self.seed, number) + 500_009 * self.processes.rank

    def _descend(self, loss: Tensor, lr: float) -> Tensor:
        """One step down the sum of the processes' losses, which is returned."""
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # a process without a share has nothing to add
            loss.backward()
        loss = self.processes.sum_gradients(self.taught, loss.detach())
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        nn.utils.clip_grad_norm_(self.taught.parameters(), self.params.clip)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return loss

    def _precision(self) -> "torch.autocast":
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def validate(self, validation: Validation, cider: CiderD) -> tuple[float, float]:
        """CIDEr-D of greedy captions, times 100, and the cross-entropy of people's, in nats per token.

        Both with the averaged weights where there are any.
        """
        if self.average:
            self.average.swap()
        features = self.processes.share(validation.features)
        ours = greedy_captions(self.decoder, features, self.vocabulary, self.longest, self.device)
        captions = self.processes.gather(ours)
        score: float = self.processes.from_first(100 * float(cider.score(captions).mean()))
        return score, self.processes.from_first(self._surprise(validation))

    @torch.no_grad()
    def _surprise(self, validation: Validation) -> float:
        """The cross-entropy of people's captions of the val pictures, nats per token."""
        self.decoder.eval()
        total, tokens = torch.zeros((), device=self.device), 0
        for batch in validation.batches.epoch(0, self.processes):
            if len(batch.images):
                features = validation.features[batch.images.cpu()].to(self.device).float()
                with self._precision():
                    loss = cross_entropy(self.decoder, features, batch, label_smoothing=0.0)
                total += loss * batch.tokens
                tokens += batch.tokens
        whole, count = self.processes.total(float(total), tokens)
        return whole / count

    def keep(self, row: Epoch) -> bool:
        """Note the epoch, and its weights if they are among the best; whether they are the very best."""
        self.rows.append(row)
        improved = not self.kept or row.selection_key > self.best.selection_key
        if len(self.kept) < self.params.average or row.selection_key > self._row(-1).selection_key:
            self.kept.append((row.epoch, copied(self.decoder)))
            self.kept.sort(key=lambda one: self.rows[one[0] - 1].selection_key, reverse=True)  # the earlier of equal ones first
            del self.kept[self.params.average :]
        if self.average:
            self.average.swap()  # back to the weights that are being trained
        return improved

    def _row(self, place: int) -> Epoch:
        """The epoch that is kept at a place."""
        return self.rows[self.kept[place][0] - 1]

    def take_best(self) -> None:
        """The decoder gets the weights of the best epoch, or the mean of those of the best ones."""
        if self.kept:
            self.decoder.load_state_dict(mean([weights for _, weights in self.kept]))

    def goes_on(self) -> bool:
        """Whether another epoch is due; turns to self-critical training where that comes next."""
        done, params = len(self.rows), self.params
        if self.switched_after:
            waited = done - max(self.best.epoch, self.switched_after)
            return done - self.switched_after < params.scst.epochs and waited < params.patience
        if done < params.epochs and not (done and done - self.best.epoch >= params.patience):
            return True
        if not params.scst.epochs:
            return False
        self.switched_after = done
        self.take_best()
        if self.average:
            self.average.restart()
        self.optimizer.state.clear()  # its momentum belongs to another loss
        return True

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "taught": self.taught.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "average": [self.average.state(), self.average.steps] if self.average else None,
            "rows": [asdict(row) for row in self.rows],
            "kept": [list(one) for one in self.kept],
            "switched_after": self.switched_after,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.taught.load_state_dict(state["taught"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        if self.average:
            self.average.restore(*state["average"])
        self.rows = [Epoch(**row) for row in state["rows"]]
        self.kept = [
            (epoch, {name: weight.to(self.device) for name, weight in weights.items()})
            for epoch, weights in state["kept"]
        ]
        self.switched_after = state["switched_after"]


def _refuse_infinite(losses: Sequence[Tensor], epoch: int, first: int = 0) -> None:
    """`losses` are those of an epoch's steps from `first` on. Raises `NumericError`."""
    for step, value in enumerate(torch.stack(list(losses)).tolist(), first + 1):
        if not math.isfinite(value):
            raise NumericError(
                f"the loss is {value} in epoch {epoch}, step {step}; lower params.train.lr or params.train.clip"
            )


def _part(loss: Tensor, ours: float, whole: float) -> Tensor:
    """A mean over `ours` tokens as its part of the mean over `whole` ones, which the processes have together."""
    return loss if ours == whole else loss * (ours / whole)
