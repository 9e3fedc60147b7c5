"""A Ray to work on: one that runs, or a new one on this machine; and its errors in our own words."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.errors import CaptionerError, DataError, ParamsError

OTHER_TASKS = 3
"""Logical CPUs beside the actors': one each for reading the manifest (or filtering it by checkpoints, with an actor of
its own), decoding and writing. With fewer, a restored job waits for ever."""
RETRIES = 3
"""Of a task whose process died. Ray's own default is to try for ever, also with a picture that kills its decoder."""


@dataclass(frozen=True)
class Cluster:
    """Where to compute."""

    device: str
    encoders: int

    @property
    def gpus(self) -> int:
        """Of one encoder."""
        return 1 if self.device == "cuda" else 0


@contextmanager
def cluster(address: str | None, *, device: str, encoders: int) -> Iterator[Cluster]:
    """A running Ray: the one at `address`, the one that this process has already, or a new one on this machine.

    `encoders`: 0 for as many as there is room for. Raises `ParamsError` for a cluster that is too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default
    ours = not ray.is_initialized()
    if ours:
        _start(address, encoders or os.cpu_count() or 1)
    elif address is not None:
        raise ParamsError("--address: this process is connected to a Ray cluster already")
    try:
        yield _room(ray.cluster_resources(), device, encoders, started_here=ours and address is None)
    finally:
        if ours:
            ray.shutdown()


def _start(address: str | None, encoders: int) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            cpus = encoders + OTHER_TASKS + 1
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(cpus))  # else a warning in every job
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        raise ParamsError(
            f"--address {address}: no Ray cluster to work on: {str(error).splitlines()[0]}; see that it runs, that "
            "this machine reaches it, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the same here and there"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray puts its own in place of the command line's
            signal.signal(number, handler)


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens: Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _room(resources: dict[str, float], device: str, encoders: int, *, started_here: bool) -> Cluster:
    """How many encoders there are to be, and on what."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    kind = device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind not in {"cpu", "cuda"}:
        raise ParamsError(f"params.run.device: {device} is not for --engine ray; use auto, cpu or cuda")
    if kind == "cuda" and not gpus:
        raise ParamsError(f"params.run.device: {device}, but the Ray cluster has no GPU; use auto or cpu")
    if kind == "cuda":
        wanted = encoders or gpus
        if wanted > gpus:
            raise ParamsError(f"params.run.workers: {wanted} encoders, but the Ray cluster has {gpus} GPUs")
    elif started_here:
        wanted = cpus - OTHER_TASKS - 1
    else:  # decoding takes about a twelfth of what the network does
        wanted = encoders or max(1, min(cpus - OTHER_TASKS, cpus * 7 // 8))
    needed = wanted + OTHER_TASKS
    if cpus < needed:
        room = cpus - OTHER_TASKS
        remedy = f"set params.run.workers to at most {room}, or " if room > 0 else ""
        raise ParamsError(
            f"the Ray cluster has {cpus} logical CPUs, but {wanted} encoders need {needed} (one each, and "
            f"{OTHER_TASKS} for reading, decoding and writing); {remedy}start its nodes with a larger --num-cpus"
        )
    return Cluster(kind, wanted)


@contextmanager
def explained() -> Iterator[None]:
    """Errors of ours that Ray has wrapped come out as they were raised; a process that keeps dying is a `DataError`."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, CaptionerError):
                raise _plain(cause) from error
            if isinstance(cause, ray.exceptions.WorkerCrashedError):
                raise DataError(
                    f"a process that reads pictures or writes shards died {RETRIES + 1} times on the same ones: "
                    f"{_line(cause)}; look for a damaged picture or too little memory, then run the same command again"
                ) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]


def _plain(error: CaptionerError) -> CaptionerError:
    """Of one of our classes alone: Ray's copy belongs to its own classes too, and prints their tracebacks."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith("pipeline.")]
    message = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return kinds[0](message) if type(error) is not kinds[0] else error


def _line(error: BaseException) -> str:
    return json.dumps(str(error).strip().splitlines()[0])[1:-1]
