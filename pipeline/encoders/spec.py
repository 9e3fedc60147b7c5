"""EncoderSpec: everything that makes two feature vectors comparable, as one value with a digest.

It is stored in `features.h5`, copied into the model file, and `predict` rebuilds the encoder from it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2


@dataclass(frozen=True)
class Preprocessing:
    """From an upright RGB picture to the network's input."""

    size: int
    """Side of the square input, in pixels."""
    shorter_side: int | None
    """None: the whole picture is made square. Else the shorter side is scaled to this and the centre is cut out."""
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    background: tuple[int, int, int]
    """What shows through transparent pixels, 0-255."""


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen network, the layer that is read, and the way into it and out of it."""

    name: str
    """torchvision's name of the network."""
    weights: str
    """torchvision's name of the weights, `file`, or `random:SEED`."""
    weights_sha256: str
    """Of the tensors that the layer depends on, in the order of their names."""
    layer: str
    grid: int
    transform: Preprocessing
    precision: str
    """What the forward pass computes in."""
    dtype: str = "float16"
    """What a row is stored as."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Canonical: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `ArtefactError` when `text` is not a spec of this schema."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content.get("schema") != SCHEMA:
                raise ArtefactError(f"the encoder spec has schema {content.get('schema')}, this program reads {SCHEMA}")
            transform = dict(content.pop("transform"))
            for name in ("mean", "std", "background"):
                transform[name] = tuple(transform[name])
            return cls(transform=Preprocessing(**transform), **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(f"not an encoder spec: {error}") from error

    def differences(self, other: "EncoderSpec") -> list[str]:
        """`name: ours, theirs` for each field that differs."""
        found = []
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours != theirs:
                found.append(f"{field.name}: {ours}, {theirs}")
        return found


def sha256_of_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Hex digest over names, shapes, types and values."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
