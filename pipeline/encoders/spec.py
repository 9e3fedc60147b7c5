"""EncoderSpec: everything that makes two features comparable, as one value with a digest.

The spec is stored in `features.h5` and in the model file. `predict` rebuilds the encoder from it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.errors import ArtefactError
from pipeline.options import first_error

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 3
METADATA_KEY = "captioner"
"""The key of a model file's metadata, which hold the spec."""
IMPORTED = "imported"
"""The source of features that another program computed."""
_MAX_SIZE = 4096
_Mean = Annotated[float, Field(ge=-1000, le=1000)]
_Std = Annotated[float, Field(ge=1e-6, le=1000)]
_Color = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Preprocessing:
    """How an upright RGB image becomes the network's input."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    size: Annotated[int, Field(ge=0, le=_MAX_SIZE)]
    """Side of the square input, in pixels."""
    shorter_side: Annotated[int, Field(ge=8, le=4 * _MAX_SIZE)] | None
    """None stretches the whole image to a square. Otherwise the shorter side is scaled to this many pixels, and the
    center `size` x `size` is cropped."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "none"]
    mean: tuple[_Mean, _Mean, _Mean]
    """Subtracted from RGB values in 0 to 1."""
    std: tuple[_Std, _Std, _Std]
    """Divides the result."""
    background: tuple[_Color, _Color, _Color]
    """RGB color behind transparent pixels, 0 to 255."""
    fill_truncated: bool = False
    """Whether a JPEG that ends too early is used, gray where its pixels are missing."""
    jpeg_decoder: Literal["pillow", "nvimgcodec"] = "pillow"
    """What decoded the JPEGs of the features. Pixels of nvimgcodec, on a GPU, differ by at most 3 from Pillow's."""


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
    weights_sha256: Annotated[str, Field(min_length=64, max_length=64)]
    """Digest of the tensors that the layer depends on; see `sha256_of_tensors`."""
    layer: str
    grid: Annotated[int, Field(ge=0, le=256)]
    """The layer's output is averaged to grid x grid regions."""
    preprocessing: Preprocessing
    precision: Annotated[str, Field(pattern="^(float32|bfloat16|unknown)$")]
    """Data type of the forward pass."""
    source: str = "torchvision"
    """A key of `encoders.registry.SOURCES`, or `imported`."""
    dtype: Literal["float16"] = "float16"
    """Data type of stored features."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces, no fields at their defaults except `schema`."""
        content = _adapter().dump_python(self, exclude_defaults=True) | {"schema": self.schema}
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
            raise ArtefactError(f"not an encoder spec: {first_error(error)}") from error
        values = {spec.grid, spec.precision, spec.preprocessing.size, spec.preprocessing.interpolation}
        if not spec.imported and values & {0, "none", "unknown"}:
            raise ArtefactError("not an encoder spec: has a 0, none or unknown that only imported features have")
        return spec

    def differences(self, features: "EncoderSpec") -> list[str]:
        """Compare a model's spec with that of features: `grid: 7 (model), 5 (features)` for each field that differs."""
        ours, theirs = _by_name(self), _by_name(features)
        names = [name for name in ours if ours[name] != theirs[name]]
        return [f"{name}: {ours[name]} (model), {theirs[name]} (features)" for name in names]


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


def sha256_of_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the hex sha256 over the names, shapes, data types and values of `tensors`, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
