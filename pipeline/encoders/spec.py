"""EncoderSpec: everything that makes two features comparable, as one value with a digest.

The spec is stored in `features.h5` and in the model file. `predict` rebuilds the encoder from it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 3
METADATA_KEY = "captioner"
"""The key of a model file's metadata, which hold the spec."""
IMPORTED = "imported"
"""The source of features that another program computed."""
PRECISIONS = ("float32", "bfloat16")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MAX_GRID = 256
MAX_SIZE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """How an upright RGB image becomes the network's input."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

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
    fill_truncated: bool = False
    """Whether a JPEG that ends too early is used, gray where its pixels are missing."""


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen network, the layer whose output is kept, and its preprocessing.

    A field added after version 0.2.0 needs a default that describes older specs. A field at its default is left out
    of the canonical JSON, so older specs keep their digests.
    """

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

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
    """A key of `encoders.registry.SOURCES`, or `imported`."""
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
    def imported(self) -> bool:
        """Whether another program computed the features. Regions of zeros are then padding."""
        return self.source == IMPORTED

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are random numbers, made from a seed."""
        return self.weights.startswith("random:")

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "EncoderSpec":
        """Parse a spec. Raises `ArtefactError` when `text` is not a spec of this schema; the caller adds the remedy."""
        try:
            schema = json.loads(text).get("schema")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ArtefactError(f"not an encoder spec: {str(error)[:80]}") from error
        if schema != SCHEMA:
            raise ArtefactError(f"the encoder spec has schema {str(schema)[:20]}, this version reads {SCHEMA}")
        try:
            spec = _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))[:80]
            raise ArtefactError(f"not an encoder spec: {key}: {first['msg']}") from error
        spec._check_values()
        return spec

    def _check_values(self) -> None:
        """Raise `ArtefactError` for values that no encoder has."""
        preprocessing, imported = self.preprocessing, self.imported  # imported features have no preprocessing
        possible = {
            "weights_sha256": len(self.weights_sha256) == 64,
            "grid": imported or 1 <= self.grid <= MAX_GRID,
            "precision": imported or self.precision in PRECISIONS,
            "dtype": self.dtype == "float16",
            "preprocessing.size": imported or 8 <= preprocessing.size <= MAX_SIZE,
            "preprocessing.shorter_side": preprocessing.shorter_side is None
            or 8 <= preprocessing.shorter_side <= 4 * MAX_SIZE,
            "preprocessing.interpolation": imported or preprocessing.interpolation in INTERPOLATIONS,
            "preprocessing.mean": all(abs(value) <= 1000 for value in preprocessing.mean),
            "preprocessing.std": all(1e-6 <= value <= 1000 for value in preprocessing.std),
            "preprocessing.background": all(0 <= value <= 255 for value in preprocessing.background),
        }
        wrong = [name for name, is_possible in possible.items() if not is_possible]
        if wrong:
            raise ArtefactError(f"not an encoder spec: impossible value of {wrong[0]}")

    def differences(self, other: "EncoderSpec", labels: tuple[str, str] | None = None) -> list[str]:
        """Return `name: ours, theirs` for each field that differs, e.g. `preprocessing.size: 224, 225`.

        With the labels `model` and `features` this is `preprocessing.size: 224 (model), 225 (features)`.
        """
        ours, theirs = _by_name(self), _by_name(other)
        first, second = (f" ({label})" for label in labels) if labels else ("", "")
        return [f"{name}: {ours[name]}{first}, {theirs[name]}{second}" for name in ours if ours[name] != theirs[name]]


def imported_spec(name: str, channels: int) -> EncoderSpec:
    """Return the spec of features (N, R, `channels`) that another program, called `name`, computed.

    Features that were imported under the same name are comparable. There is no preprocessing, and no grid.
    """
    return EncoderSpec(
        name=name,
        weights=IMPORTED,
        weights_sha256=hashlib.sha256(f"{name}\n{channels}".encode()).hexdigest(),
        layer="regions",
        grid=0,
        preprocessing=Preprocessing(0, None, "none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (255, 255, 255)),
        precision="unknown",
        source=IMPORTED,
    )


@cache
def _adapter() -> TypeAdapter[EncoderSpec]:
    return TypeAdapter(EncoderSpec)


def _by_name(spec: EncoderSpec) -> dict[str, Any]:
    """All values, those of the preprocessing as `preprocessing.NAME`."""
    values = asdict(spec)
    preprocessing = values.pop("preprocessing")
    return values | {f"preprocessing.{name}": value for name, value in preprocessing.items()}


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
