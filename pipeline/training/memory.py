"""Too little memory, as an error that names the params to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import ParamsError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory: on a CPU it raises a plain `RuntimeError`."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Within the block, too little memory raises `ParamsError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ParamsError(
            "the device's memory is too small: lower params.train.batch_size, params.decoder.hidden or "
            f"params.encoder.grid ({str(error).splitlines()[0]})"
        ) from error
