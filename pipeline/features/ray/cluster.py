"""Connecting to a Ray cluster or starting one on this machine, and translating Ray's errors."""

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

RETRIES = 3
"""Of a task whose process died. Ray Data's default is to retry forever, even if an image crashes its decoder."""


@dataclass(frozen=True)
class Cluster:
    """What a connected Ray cluster runs."""

    device: str
    """cpu or cuda"""
    encoders: int
    """Maximum number of encoders: one per GPU or CPU."""

    @property
    def gpus_per_encoder(self) -> int:
        return 1 if self.device == "cuda" else 0


@contextmanager
def connect(address: str | None, *, device: str, encoders: int) -> Iterator[Cluster]:
    """Connect to the Ray cluster at `address`; without one, use this process's, or start one on this machine.

    `device` is `params.run.device`. `encoders` is the number of encoders, 0 for as many as the cluster has room for.
    Raises `ParamsError` for a cluster that cannot be reached or lacks the device.
    """
    started = not ray.is_initialized()
    if started:
        _initialize(address, encoders or os.cpu_count() or 1)
    elif address is not None:
        raise ParamsError("--address: this process is connected to a Ray cluster already; omit it")
    try:
        yield plan_cluster(ray.cluster_resources(), device, encoders)
    finally:
        if started:
            ray.shutdown()


def _initialize(address: str | None, encoders: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; without it, a warning
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": encoders + 2, "include_dashboard": False}  # and a CPU each to decode and to write
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is not None:
            _check_port(address)
        ray.init(address=address or "local", **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        raise ParamsError(
            f"--address {address}: cannot connect to a Ray cluster: {str(error).splitlines()[0]}; check that it runs, "
            "that this machine reaches it, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the same on both"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray replaces those of the command line
            signal.signal(number, handler)


def _check_port(address: str) -> None:
    """Raise `OSError` when nothing listens at `address`: Ray would try for five minutes and end the process."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def plan_cluster(resources: dict[str, float], device: str, encoders: int) -> Cluster:
    """Choose the device and the number of encoders from the cluster's CPUs and GPUs. Raises `ParamsError`."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device not in {"cpu", "cuda"}:
        raise ParamsError(f"params.run.device: {device} is not available with --engine ray; use auto, cpu or cuda")
    if device == "cuda" and not gpus:
        raise ParamsError("params.run.device: cuda, but the Ray cluster has no GPU; use auto or cpu")
    if cpus < 2:
        raise ParamsError(
            f"the Ray cluster has {cpus} logical CPUs but needs at least 2; set --num-cpus of `ray start`"
        )
    if device == "cuda":
        return Cluster(device, min(encoders or gpus, gpus, cpus - 1))
    # Decoding takes about a twelfth of the time of the network.
    return Cluster(device, min(encoders or max(1, cpus * 7 // 8), cpus - 1))


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise this program's errors as tasks raised them, and `DataError` for a task whose process keeps dying."""
    try:
        yield
    except ray.exceptions.WorkerCrashedError as error:
        raise DataError(
            f"a process that decodes images or writes shards died {RETRIES + 1} times on the same shard; look for a "
            "damaged image or too little memory, then run the same command again"
        ) from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CaptionerError):
            message = str(error.cause).partition("\nFailed to apply UDF")[0]  # the rest is advice of Ray Data
            raise type(error.cause)(message) from error
        raise
