"""The metadata of a model file: one key of sorted JSON, validated strictly before any tensor is read."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.encoders.spec import METADATA_KEY
from pipeline.errors import ArtefactError, CaptionerError
from pipeline.file_signatures import other_content
from pipeline.options import Options, first_error
from pipeline.wording import counted

SCHEMA = 2
KEY = METADATA_KEY
"""The only metadata key: safetensors writes several keys in random order."""

COPY = "copy the file again, or train again"
"""The remedy for a damaged model file."""

Scalar = str | int | float | bool | None
Size = Annotated[int, Field(ge=1, le=2**20)]


class ModelMetadata(Options):
    """What a model file states beside its tensors."""

    decoder: dict[str, Scalar] = Field(description="Resolved options of the decoder, with its kind")
    vocabulary: dict[str, Any] = Field(description="As `Vocabulary.to_json` returns it")
    spec: str = Field(description="Canonical JSON of the EncoderSpec of the training features")
    regions: Size = Field(description="Regions of an image's features")
    channels: Size = Field(description="Channels of a region")
    params: dict[str, Any] = Field(description="Resolved params of the training run; a record, never interpreted")
    trained_on: dict[str, Scalar] = Field(description="Hashes and counts of the training data, and the best epoch")
    tensors_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(
        description="sha256 over the names, dtypes, shapes and bytes of all tensors"
    )

    def to_json(self) -> str:
        """Sorted JSON with the schema number and a sha256 over the rest; the same text for the same metadata."""
        content = {"schema": SCHEMA, **self.model_dump()}
        return _sorted_json({**content, "sha256": _digest(content)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> "ModelMetadata":
        """Parse and check the metadata of the model file `path`.

        Raises `ArtefactError` naming the file for another schema, damage, or a key that is missing or wrong.
        """
        if not text:
            raise ArtefactError(f"{path}: a file of another program, not a model file of captioner")
        try:
            content = json.loads(text)
            schema = content.pop("schema")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtefactError(f"{path}: the metadata is not a JSON object with a schema; train again") from error
        if schema != SCHEMA:
            raise ArtefactError(
                f"{path}: model file schema {str(schema)[:20]}, this version reads schema {SCHEMA}; "
                "train again with this version"
            )
        if content.pop("sha256", None) != _digest({"schema": schema, **content}):
            raise ArtefactError(f"{path}: damaged: the metadata do not match their sha256; {COPY}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise wrong_metadata(path, error) from error


def read_metadata(path: Path) -> ModelMetadata:
    """The metadata of a model file, without its tensors. Raises `ArtefactError` for a truncated or another file."""
    with opened(path, framework="numpy") as file:
        return ModelMetadata.from_json((file.metadata() or {}).get(KEY, ""), path)


@contextmanager
def opened(path: Path, *, framework: Literal["pt", "numpy"]) -> Iterator[Any]:
    """Open a safetensors file. Every error that its content causes is raised as `ArtefactError` with `path`."""
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # safetensors reports a file that it may not read as one that is missing
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except CaptionerError:
        raise
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        if words := other_content(path):
            raise ArtefactError(f"{path}: {words}") from error
        with path.open("rb") as other:
            if other.read(2) in {b"PK", b"\x80\x02", b"\x80\x04"}:
                raise ArtefactError(
                    f"{path}: a PyTorch checkpoint or an archive, not a model file of captioner, as the stage train "
                    "writes it"
                ) from error
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtefactError(f"{path}: not a model file of captioner: {reason}; {COPY}") from error


def training_summary(trained_on: Mapping[str, Scalar]) -> str:
    """What a model was trained on, in a few words: `trained on 6,000 images of flickr8k/captions.txt`."""
    images, dataset = trained_on.get("images"), trained_on.get("dataset")
    known = counted(images, "image") if isinstance(images, int) else "unknown data"
    start = f", starting from {trained_on['init_from']}" if trained_on.get("init_from") else ""
    return f"trained on {known}{f' of {dataset}' if dataset else ''}{start}"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_sorted_json(content).encode("utf-8", "surrogatepass")).hexdigest()


def _sorted_json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def wrong_metadata(path: Path, error: ValidationError, *section: str) -> ArtefactError:
    """The error that names the first wrong key, below `section`, of the metadata of `path`."""
    return ArtefactError(f"{path}: metadata {first_error(error, *section)}; train again")
