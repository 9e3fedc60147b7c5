"""What makes a cold start short: a third of the time of a first caption would go into things that it does not need.

torchvision imports torch's compiler for one question that its detection operators ask on CUDA, torch's optimizers do to
tell it that they are not to be compiled, and a network that is about to be given its weights fills itself with random
numbers first.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _StandIn(ModuleType):
    """Takes the place of a module of the compiler; whoever asks for more than there is gets the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _StandInPackage(_StandIn):
    """The same; whoever imports a module from below it gets the real one too."""

    @property
    def __path__(self) -> Any:  # type: ignore[override]
        return _real(self.__name__).__path__


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """A function as it is; without one, what decorates functions so."""
    return _unchanged if function is None else function


def _real(name: str) -> ModuleType:
    _withdraw()
    return importlib.import_module(name)


def _withdraw() -> None:
    for name in _COMPILER:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
    if isinstance(vars(torch).get("_dynamo"), _StandIn):
        del vars(torch)["_dynamo"]


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within, neither `import torchvision` nor an optimizer imports torch's compiler, as slow to load as torch itself.

    What torchvision took from it is imported when it is called; what optimizers tell it has no effect without it.
    """
    if any(name in sys.modules for name in _COMPILER):
        yield
        return
    package, utilities = _COMPILER
    stand_ins = {package: _StandInPackage(package), utilities: _StandIn(utilities)}
    vars(stand_ins[utilities])["is_compile_supported"] = lambda device: _real(utilities).is_compile_supported(device)
    vars(stand_ins[package]).update(disable=_unchanged, graph_break=lambda *_, **__: None)
    sys.modules.update(stand_ins)
    vars(torch)["_dynamo"] = stand_ins[package]
    try:
        yield
    finally:
        _withdraw()


class UnfilledWeights(TorchFunctionMode):
    """Within, a change in place of a tensor on the `meta` device, which has no values, is not computed."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)
