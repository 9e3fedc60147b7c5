"""Data-parallel training in several processes that `torchrun` starts.

Each batch is divided caption by caption, so `train.batch_size` is that of all processes together and the loss curve is
that of one process, except for rounding and dropout: each process divides the loss of its own tokens by the number of
tokens of the whole batch, and `DistributedDataParallel` adds up the gradients.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.device import choose_device
from pipeline.errors import ArtefactError, CaptionerError, NumericError, ParamsError, PeerError
from pipeline.training.memory import is_out_of_memory

TIMEOUT_SECONDS = 6 * 3600.0
"""How long to wait for a process that is alive but does not answer: longer than a validation, for which all wait."""


@dataclass(frozen=True)
class ProcessGroup:
    """One of `count` processes that train together. Every method is called by all of them at the same point."""

    device: torch.device
    rank: int = 0
    count: int = 1

    def share(self, rows: Tensor) -> Tensor:
        """Every `count`-th row, starting at `rank`; may be empty."""
        return rows[self.rank :: self.count]

    def parallel(self, network: nn.Module) -> nn.Module:
        """`network` with the first process's weights; its backward pass averages gradients over the processes.

        Called once per epoch: after its first backward pass DistributedDataParallel adds up gradients in another order,
        and a resumed run must compute the same bits as one that was not interrupted.
        """
        if self.count == 1:
            return network
        with self.collective(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames broadcast_buffers
            return DistributedDataParallel(network, broadcast_buffers=False)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the processes."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        with self.collective():
            dist.all_reduce(total)
        return total

    def gather(self, content: Any) -> list[Any]:
        """The `content` of every process, by rank."""
        if self.count == 1:
            return [content]
        contents = [None] * self.count
        with self.collective():
            dist.all_gather_object(contents, content)
        return contents

    def from_first(self, content: Any) -> Any:
        """The `content` of the first process."""
        return self.gather(content if self.rank == 0 else None)[0]

    def expect_equal(self, content: Any) -> None:
        """Raise `ArtefactError` in every process if the processes do not have equal `content`."""
        contents = self.gather(content)
        for rank, other in enumerate(contents):
            if other != contents[0]:
                raise ArtefactError(
                    f"process {rank} of {self.count} has other params, captions, vocabulary or features than process "
                    "0; give all machines the same files (docs/scale.md)"
                )

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Within the block, a failure of torch.distributed raises `PeerError`."""
        try:
            yield
        except (RuntimeError, ValueError) as error:  # torch raises one of these when a connection breaks
            if self.count == 1 or is_out_of_memory(error):
                raise
            raise PeerError(
                f"another of the {self.count} processes has ended or does not answer; read its error message, then "
                f"start all of them again: training resumes after the last complete epoch ({str(error)[:200]})"
            ) from error


SINGLE_PROCESS = ProcessGroup(torch.device("cpu"))


@contextmanager
def process_group(device: str, *, timeout: float = TIMEOUT_SECONDS) -> Iterator[ProcessGroup]:
    """The processes that `torchrun` started, or a single one. `device` is `run.device`.

    Raises `ParamsError`, `PeerError`. Errors within the block get the number of the process as a prefix.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield ProcessGroup(choose_device(device))
        return
    try:
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except KeyError as error:
        raise ParamsError(
            f"WORLD_SIZE is set in the environment, but {error} is not; unset WORLD_SIZE, or start several processes "
            "with `torchrun --nproc-per-node=2 -m pipeline train`"
        ) from error
    try:
        processes = ProcessGroup(own_device(device, local_rank), rank, count)
        with processes.collective():
            backend = "nccl" if processes.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        yield processes
    except NumericError:  # all processes raise it in the same step
        raise
    except CaptionerError as error:
        raise type(error)(f"process {rank}: {error}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # its threads would abort the process on exit


def own_device(name: str, local_rank: int) -> torch.device:
    """The device of one of several processes: on CUDA the GPU with its local rank. Raises `ParamsError`."""
    device = choose_device(name)
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ParamsError(f"process {local_rank + 1} of this machine has no GPU of its own; lower --nproc-per-node")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device
