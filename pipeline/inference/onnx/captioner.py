"""Captions from an exported folder, computed by ONNX Runtime: starts sooner than torch, and does not need it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.encoders import images
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, ParamsError
from pipeline.files import read_json
from pipeline.inference.base_captioner import BaseCaptioner, Caption, Pixels
from pipeline.inference.onnx.search import Array, SearchOptions, State, beam_search
from pipeline.inference.reranking import Reranker
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import onnxruntime
    from PIL import Image

SCHEMA = 1
DESCRIPTION = "captioner.json"
ENCODER, START, STEP, ENCODER_INT8 = "encoder.onnx", "start.onnx", "step.onnx", "encoder-int8.onnx"
CONSENSUS = "consensus.safetensors"
KNOWN = "known"
"""The output of `START` that says what the decoder knows of the picture."""


class OnnxCaptioner(BaseCaptioner[SearchOptions]):
    """A folder that `captioner export --onnx` wrote.

    >>> OnnxCaptioner.load("models/onnx")("photo.jpg")  # doctest: +SKIP
    'two dogs run through the snow'
    """

    search_options = SearchOptions
    instead = "; --runtime torch has more"

    def __init__(
        self, description: dict[str, Any], encoder: Any, start: Any, step: Any, consensus: Reranker | None
    ) -> None:
        self.spec = EncoderSpec.from_json(description["spec"])
        self.vocabulary = Vocabulary.from_json(description["vocabulary"], DESCRIPTION)
        self._names = description["state"]
        self._changing = [place for place, name in enumerate(self._names) if name not in description["kept"]]
        self._looks = description["attention"]
        self.model_sha256 = description.get("model_sha256")
        """Of the model file that was exported."""
        self._encoder, self._start, self._step = encoder, start, step
        self.consensus = consensus

    @classmethod
    def load(cls, folder: str | Path, *, int8: bool = False) -> Self:
        """Raises `DataError` without a folder, `ArtefactError` when it is not a whole export of this version,
        `ParamsError` without onnxruntime."""
        folder = Path(folder)
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ParamsError(
                "the onnx runtime needs onnxruntime, which is in an extra: pip install 'captioner[onnx]'"
            ) from error
        if folder.is_file():
            raise DataError(f"{folder}: a file; the onnx runtime reads the folder that `captioner export --onnx` wrote")
        if not (folder / DESCRIPTION).is_file():
            raise DataError(f"{folder}: no exported model; `captioner export --onnx {folder}` makes one")
        description = read_json(folder / DESCRIPTION)
        if not isinstance(description, dict) or description.get("schema") != SCHEMA:
            raise ArtefactError(f"{folder / DESCRIPTION}: not an export of this version; export again")
        names = (ENCODER_INT8 if int8 else ENCODER, START, STEP)
        if int8 and not (folder / ENCODER_INT8).is_file():
            raise DataError(
                f"{folder}: has no 8-bit encoder; `captioner export --onnx {folder} --int8 IMAGE_SUFFIXES` makes one"
            )
        try:
            encoder, start, step = (_session(onnxruntime, folder / name) for name in names)
            return cls(description, encoder, start, step, _consensus(folder, description))
        except (KeyError, TypeError, OSError) as error:
            raise ArtefactError(f"{folder}: not a whole export: {error}; export again") from error

    def prepare(self, picture: "Image.Image") -> Pixels:
        return images.fitted(picture, self.spec.transform)

    def encode(self, pixels: Pixels) -> Array:
        """Features (B, R, C) of pictures (B, S, S, 3)."""
        features: Array = self._encoder.run(["features"], {"pixels": pixels})[0]
        return features

    def describe(
        self, pixels: Pixels, search: SearchOptions | None = None, *, captions: int = 1, attention: bool = False
    ) -> list[list[Caption]]:
        search = search or self.make_search()
        search = replace(search, beam_size=max(search.beam_size, captions))
        known, state = self._started(self.encode(pixels), search)
        wanted = captions if known is None else search.beam_size
        found = beam_search(self._next, state, search, captions=wanted, attention=attention)
        if known is not None and self.consensus:
            ranked = self.consensus.ranked(known, found, neighbours=search.neighbours, weight=search.consensus)
            found = [best[:captions] for best in ranked]
        return self._told(found)

    def _started(self, features: Array, search: SearchOptions) -> tuple[Array | None, State]:
        """What the decoder knows of the pictures, where they are to be compared with others, and its first state."""
        if not search.neighbours:
            return None, self._start.run(self._names, {"features": features})
        if self.consensus is None:
            raise ParamsError(
                f"neighbours: {search.neighbours}, but this export does not store_captions the training captions: use 0"
            )
        known, *state = self._start.run([KNOWN, *self._names], {"features": features})
        return known, state

    def _next(self, state: State, tokens: Array) -> tuple[Array, State, Array | None]:
        given = dict(zip(self._names, state, strict=True)) | {"tokens": tokens.astype(np.int64)}
        outputs = ["log_probs", *(["attention"] if self._looks else [])]
        wanted = [f"next_{self._names[place]}" for place in self._changing]
        log_probs, *rest = self._step.run([*outputs, *wanted], given)
        look = rest.pop(0) if self._looks else None
        following = list(state)
        for place, part in zip(self._changing, rest, strict=True):
            following[place] = part
        return log_probs, following, look


def _consensus(folder: Path, description: dict[str, Any]) -> Reranker | None:
    """What the export remembers. Raises `ArtefactError` when it is not what was exported with these networks."""
    from safetensors.numpy import load

    expected = description.get("consensus_sha256")
    if not expected:
        return None
    path = folder / CONSENSUS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error.strerror}; export again") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ArtefactError(f"{path}: not of this export; export again")
    sizes = {"vocabulary": len(description["vocabulary"]["tokens"]), "width": description["width"]}
    return Reranker.from_arrays(load(content), str(path), **sizes)


def _session(onnxruntime: Any, path: Path) -> "onnxruntime.InferenceSession":
    """Raises `ArtefactError` naming the file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads leave the cores to others
    if path.name in {START, STEP}:
        options.intra_op_num_threads = 1  # a step is too small to be worth sharing out
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each way in which a file can be wrong
        reason = str(error).splitlines()[0]
        raise ArtefactError(f"{path}: cannot be loaded: {reason}; export again") from error
