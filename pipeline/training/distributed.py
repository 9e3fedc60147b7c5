"""Several processes that train one decoder together, as `torchrun` starts them: who takes what, and how they agree.

Every batch is dealt out caption by caption, so `train.batch_size` is that of all processes together, and the loss curve
is one process's but for rounding and the draws of dropout. What a process adds to the gradient is weighed by its real
tokens: the sum is the gradient of the whole batch.

The gradients are added up here, in one flat tensor after the backward pass, and not by torch's
DistributedDataParallel. That one averages over processes instead of tokens, waits for ever for a process whose share of
a batch is empty, and sees only calls of the wrapped network's `forward`, where our decoders are also stepped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.device import choose_device
from pipeline.errors import ArtefactError, CaptionerError, NumericError, ParamsError, PeerError

PATIENCE = 600.0
"""Seconds to wait for a process that neither answers nor has ended."""


class ProcessGroup:
    """One of `count` processes; the first one alone writes files."""

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        """`local` is the number of the process on its machine."""
        self.rank, self.count, self.local = rank, count, local
        self._device = torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """What `params.run.device` means for this process: each has a GPU of its own. Raises `ParamsError`."""
        device = choose_device(name)
        if self.count == 1 or device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise ParamsError(f"params.run.device: {self.count} processes cannot share {name}; use auto, cuda or cpu")
        if self.local >= torch.cuda.device_count():
            raise ParamsError(
                f"this machine has {torch.cuda.device_count()} GPUs, too few for process {self.local + 1} on it; "
                "lower --nproc-per-layer"
            )
        return torch.device("cuda", self.local)

    def join(self, name: str, patience: float) -> None:
        """Meet the other processes. Raises `PeerError`, `ParamsError`."""
        self._device = self.device(name)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        self._together(
            dist.init_process_group,
            "nccl" if self._device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=patience),
            rank=self.rank,
            world_size=self.count,
        )

    def share(self, rows: Tensor) -> Tensor:
        """Every `count`-th row; none when there are too few."""
        return rows if self.count == 1 else rows[self.rank :: self.count]

    def total(self, *values: float) -> Sequence[float]:
        """Each value's sum over the processes."""
        if self.count == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self._device)
        self._together(dist.all_reduce, sums)
        found: list[float] = sums.tolist()
        return found

    def sum_gradients(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Leave the sum of the gradients in every process's network; the sum of the losses."""
        if self.count == 1:
            return loss
        parameters = list(network.parameters())
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([*(one.flatten() for one in gradients), loss.view(1).to(gradients[0].dtype)])
        self._together(dist.all_reduce, flat)
        sums = flat[:-1].split([one.numel() for one in parameters])
        for parameter, one in zip(parameters, sums, strict=True):
            parameter.grad = one.view_as(parameter)
        return flat[-1].clone()  # a view would keep the gradients

    def align(self, network: nn.Module) -> None:
        """Give every process the first one's weights: unlike processors round differently."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                self._together(dist.broadcast, tensor, 0)

    def from_first(self, content: Any) -> Any:
        """What the first process has."""
        if self.count == 1:
            return content
        holder = [content]
        self._together(dist.broadcast_object_list, holder, 0, device=self._device)
        return holder[0]

    def gather(self, shares: list[str]) -> list[str]:
        """What the processes made of their shares, in the order of the whole."""
        return [one for row in zip_longest(*self._each(shares)) for one in row if one is not None]

    def expect_equal(self, content: Any) -> None:
        """Raises `ArtefactError` in every process when another one has read other params or data than the first."""
        first, *others = self._each(content)
        for number, other in enumerate(others, 1):
            if other != first:
                raise ArtefactError(
                    f"process {number} of {self.count} has other params, captions, vocabulary or features than the "
                    "first one; give all machines the same files (docs/scale.md)"
                )

    def _each(self, content: Any) -> list[Any]:
        if self.count == 1:
            return [content]
        holders = [None] * self.count
        self._together(dist.all_gather_object, holders, content)
        return holders

    def _together(self, collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            collective(*arguments, **options)
        except (RuntimeError, ValueError) as error:  # torch's are of these two, whatever the connection died of
            raise PeerError(
                f"another of the {self.count} processes that train together has ended or does not answer; see what it "
                "said, and start all again: they go on after the last whole epoch"
            ) from error


ALONE = ProcessGroup()


@contextmanager
def joined(environment: Mapping[str, str], device: str, *, patience: float = PATIENCE) -> Iterator[ProcessGroup]:
    """Within, the processes that `torchrun` started work together; without it one works alone.

    `device` is `params.run.device`. Raises `ParamsError`, `PeerError`.
    """
    try:
        count = int(environment.get("WORLD_SIZE", 1))
        processes = ProcessGroup(int(environment["RANK"]), count, int(environment["LOCAL_RANK"])) if count > 1 else ALONE
        if count > 1:
            environment["MASTER_ADDR"], environment["MASTER_PORT"]
    except (KeyError, ValueError) as error:
        raise ParamsError(
            f"WORLD_SIZE is set in the environment, but {error} is not as it should be; unset it, or start several "
            "processes with `torchrun --nproc-per-layer=2 -m pipeline train`"
        ) from error
    if count == 1:
        yield processes
        return
    try:
        processes.join(device, patience)
        yield processes
    except NumericError:  # met by all of them at once
        raise
    except CaptionerError as error:
        raise type(error)(f"process {processes.rank}: {error}") from error
    finally:
        with suppress(RuntimeError, ValueError, AssertionError):  # it may never have come to be
            dist.destroy_process_group()  # else its threads abort the process when it ends
