"""Where a training stands after an epoch, so that a run that was killed goes on and ends with the same bytes.

A checkpoint belongs to one identity: everything that the result follows from, the code that trains among it. Another
identity is another file, so that changed params, data or code are never mixed with an older run's weights. It lies
outside all outputs, since dvc deletes those before a run, and goes when training ends, or a month after it was left.
"""

import hashlib
import io
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipeline.files import remove_leftovers, write_bytes

ABANDONED_DAYS = 30
_CODE = ("captions/*.py", "decoders/*.py", "metrics/*.py", "training/*.py", "stages/train.py")
"""What a training's result follows from."""


def code_digest() -> str:
    """Of the code that trains, as it lies there."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in package.glob(pattern)):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


class Checkpoint:
    """The file of one identity in a folder."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        identity = {**identity, "code": code_digest()}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest}.checkpoint"
        self._digest = digest

    def load(self) -> dict[str, Any] | None:
        """What was saved; None when nothing was, or what was is damaged."""
        try:
            content = torch.load(io.BytesIO(self.path.read_bytes()), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # torch.load raises whatever its unpickler meets; training then starts anew
            return None
        return content if isinstance(content, dict) and content.get("identity") == self._digest else None

    def save(self, content: dict[str, Any]) -> None:
        """Replace what was saved. Raises `DiskError`."""
        buffer = io.BytesIO()
        torch.save({"identity": self._digest, **content}, buffer)
        write_bytes(self.path, buffer.getvalue())

    def remove(self) -> None:
        """Training has ended. Others that nobody came back to go with it."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path)
        for other in self.path.parent.glob("*.checkpoint"):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > ABANDONED_DAYS * 86_400:
                    other.unlink()
