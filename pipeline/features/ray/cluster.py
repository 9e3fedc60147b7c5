"""Connecting to a Ray cluster or starting one on this machine, and translating Ray's errors."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from pipeline.errors import CaptionerError, DataError, ParamsError
from pipeline.wording import counted

RETRIES = 3
"""Times that Ray restarts a task whose process died, for instance because an image crashes the decoder."""


@dataclass(frozen=True)
class Cluster:
    """What a connected Ray cluster runs."""

    device: str
    """cpu or cuda"""
    gpus: int
    """Number of GPUs that encode; 0 for the device cpu."""
    shards: int
    """Maximum number of shards in progress."""


@contextmanager
def connect(address: str | None, *, device: str, workers: int) -> Iterator[Cluster]:
    """Connect to the Ray cluster at `address`; without one, use this process's, or start one on this machine.

    `device` and `workers` are those of `params.run`. Raises `ParamsError` for a cluster that cannot be reached or lacks
    the device. Errors of this program that tasks raise leave the block as they were raised, and a task whose process
    keeps dying is a `DataError`.
    """
    started = not ray.is_initialized()
    if started:
        _initialize(address)
    try:
        yield plan_cluster(ray.cluster_resources(), device, workers)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.RayActorError) as error:
        raise DataError(
            f"a process of the cluster died {RETRIES + 1} times on the same shard; look for a damaged image or too "
            "little memory, then run the same command again"
        ) from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CaptionerError):
            raise error.cause from error
        raise
    finally:
        if started:
            ray.shutdown()


def _initialize(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; without it, a warning
    handler = signal.getsignal(signal.SIGTERM)
    if address is None:
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    else:
        try:
            _check_port(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise ParamsError(
                f"--address {address}: cannot connect to a Ray cluster: {str(error).splitlines()[0]}; check that it "
                "runs, that this machine reaches it, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the same on both"
            ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray replaces that of the command line


def _check_port(address: str) -> None:
    """Raise `OSError` when nothing listens at `address`: Ray would try for five minutes and end the process."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def plan_cluster(resources: dict[str, float], device: str, workers: int) -> Cluster:
    """Choose the device and the number of shards in progress, at most `workers`. Raises `ParamsError`."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cpu":
        gpus = 0
    elif device != "cuda" or not gpus:
        raise ParamsError(
            f"params.run.device: {device} cannot be used on a Ray cluster with {counted(gpus, 'GPU')}; use auto, cpu "
            "or, where there are GPUs, cuda"
        )
    shards = workers or cpus + 2 * gpus  # a GPU encodes one while another waits or is written
    return Cluster(device, min(gpus, shards), shards)
