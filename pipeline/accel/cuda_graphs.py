"""CUDA graphs: replay the GPU kernels of a function without launching them one by one.

A training step on cached features is hundreds of small kernels, and launching them takes longer than computing them.
The plain twin is the function itself. Measured with `benchmarks/gpu.py` on an H200: self-critical epochs take a quarter
(inject) to an eighth (attention) of the time.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARMUP_CALLS = 3
"""Calls before a capture: libraries allocate their workspaces in the first ones."""


class CaptureError(Exception):
    """A function could not be captured; `state` is as it was before the call."""


@dataclass(frozen=True)
class _Graph:
    graph: "torch.cuda.CUDAGraph"
    inputs: tuple[Tensor, ...]
    output: Tensor


class GraphedFunction:
    """A function of tensors that is captured once per combination of input shapes, and then replayed.

    The function returns one tensor and changes `state` in place. It must not read values from the GPU, and its
    operations may depend on the shapes of its inputs only. Random numbers come from the default generator.
    """

    def __init__(self, function: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        """`state` returns every tensor that the function changes, always in the same order."""
        self._function, self._state = function, state
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result. Raises `CaptureError`."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._capture_unchanged(inputs)
        captured = self._graphs[shapes]
        for static, tensor in zip(captured.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        captured.graph.replay()
        return captured.output.clone()  # the next replay overwrites it

    def _capture_unchanged(self, inputs: Sequence[Tensor]) -> _Graph:
        """Capture, and undo what the warm-up changed: a resumed run captures later and must compute the same bits."""
        # Detached: else autograd would keep nodes of the parameters, which belong to a stream that is not captured.
        saved = [tensor.detach().clone() for tensor in self._state()]
        try:
            with _random_state_kept(), uncaptured_steps():
                return self._capture(inputs)
        except Exception as error:  # Triton raises kinds of its own; torch without CUDA an AssertionError
            raise CaptureError(str(error).partition("\n")[0]) from error
        finally:
            with torch.no_grad():
                for tensor, value in zip(self._state(), saved, strict=True):
                    tensor.copy_(value)

    def _capture(self, inputs: Sequence[Tensor]) -> _Graph:
        static = tuple(tensor.clone() for tensor in inputs)
        # One stream for all calls: the workspaces of cuBLAS, one per stream, are then allocated before a capture.
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_CALLS):
                self._function(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: one pins the memory of the features of later batches.
        with (
            _no_garbage_collection(),
            torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"),
        ):
            output = self._function(*static)
        self._pool = graph.pool()  # one replay at a time, and nothing outlives it: all graphs share their memory
        return _Graph(graph, static, output)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection during a capture could free memory of an older graph, which is not allowed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def uncaptured_steps() -> Iterator[None]:
    """Within the block, an optimizer that was made for a capture does not warn about a step outside of one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        yield


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """After the block, the current GPU's random numbers go on as if it had not been there."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)  # the old state still waits for the end of the failed capture
        raise
    generator.set_state(before.get_state())
