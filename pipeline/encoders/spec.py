"""EncoderSpec: everything that makes two features comparable, as one value with a digest.

The spec is stored in `features.h5` and in the model file. `predict` rebuilds the encoder from it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 3


@dataclass(frozen=True)
class Preprocessing:
    """How an upright RGB image becomes the network's input."""

    size: int
    """Side of the square input, in pixels."""
    shorter_side: int | None
    """None stretches the whole image to a square. Otherwise the shorter side is scaled to this many pixels, and the
    center `size` x `size` is cropped."""
    interpolation: str
    """nearest, bilinear or bicubic."""
    mean: tuple[float, float, float]
    """Subtracted from RGB values in 0 to 1."""
    std: tuple[float, float, float]
    """Divides the result."""
    background: tuple[int, int, int]
    """RGB color behind transparent pixels, 0 to 255."""


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen network, the layer whose output is kept, and its preprocessing.

    A field added after version 0.2.0 needs a default that describes older specs. A field at its default is left out
    of the canonical JSON, so older specs keep their digests.
    """

    name: str
    """The network's name in its source."""
    weights: str
    """The source's name of the weights, `file`, or `random:SEED`."""
    weights_sha256: str
    """Digest of the tensors that the layer depends on; see `sha256_of_tensors`."""
    layer: str
    grid: int
    """The layer's output is averaged to grid x grid regions."""
    preprocessing: Preprocessing
    precision: str
    """Data type of the forward pass: float32 or bfloat16."""
    source: str = "torchvision"
    """A key of `encoders.registry.SOURCES`."""
    dtype: str = "float16"
    """Data type of stored features."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces, no fields at their defaults except `schema`."""
        content = _without_defaults(self) | {
            "preprocessing": _without_defaults(self.preprocessing),
            "schema": self.schema,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a spec. Raises `ArtefactError` when `text` is not a spec of this schema; the caller adds the remedy."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content.get("schema") != SCHEMA:
                raise ArtefactError(f"the encoder spec has schema {content.get('schema')}, this version reads {SCHEMA}")
            preprocessing = dict(content.pop("preprocessing"))
            for name in ("mean", "std", "background"):
                preprocessing[name] = tuple(preprocessing[name])
            return cls(preprocessing=Preprocessing(**preprocessing), **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtefactError(f"not an encoder spec: {error}") from error

    def differences(self, other: "EncoderSpec") -> list[str]:
        """Return `name: ours, theirs` for each field that differs."""
        found = []
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours != theirs:
                found.append(f"{field.name}: {ours}, {theirs}")
        return found


def _without_defaults(value: EncoderSpec | Preprocessing) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(value)}
    return {name: item for name, item in asdict(value).items() if defaults[name] is MISSING or item != defaults[name]}


def sha256_of_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the hex sha256 over the names, shapes, data types and values of `tensors`, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
