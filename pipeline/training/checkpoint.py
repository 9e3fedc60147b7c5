"""Training state after an epoch, so that an interrupted run resumes and ends with the same bytes.

A checkpoint's file name is the digest of its identity: everything that the result depends on. Runs with other params,
data or code therefore never share a checkpoint. The folder is not an output of the stage, because dvc deletes outputs
before a run.
"""

import hashlib
import io
import json
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from pipeline.files import remove_leftovers, write_bytes

ABANDONED_DAYS = 30
"""Age after which another run's checkpoint is deleted."""
_DIGEST_BYTES = 32
"""A file begins with the sha256 of the rest."""


class Checkpoint:
    """The checkpoint of one `identity`, a mapping of JSON values, in a folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{self._digest}.checkpoint"

    def load(self) -> dict[str, Any] | None:
        """The saved state, on the CPU; None if there is none or, with a warning, if it is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            content = b""
        digest, state = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(state).digest() == digest:  # torch.load would not notice a changed bit in a tensor
            found: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
            if found["identity"] == self._digest:
                return found
        warnings.warn(f"{self.path}: damaged checkpoint; training starts at epoch 1", stacklevel=2)
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state. Raises `DiskError`."""
        buffer = io.BytesIO()  # torch.save would write the path into the file
        torch.save({"identity": self._digest, **state}, buffer)
        state_bytes = buffer.getvalue()
        write_bytes(self.path, hashlib.sha256(state_bytes).digest() + state_bytes)

    def remove(self) -> None:
        """Delete this checkpoint and those that were abandoned."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path)
        unfinished = self.path.parent.glob(".*.checkpoint.*")  # of runs that were killed while they wrote
        for other in chain(self.path.parent.glob("*.checkpoint"), unfinished):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > ABANDONED_DAYS * 86_400:
                    other.unlink()
