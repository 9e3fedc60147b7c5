"""Captions from an exported folder, computed by ONNX Runtime: starts faster than torch and does not need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.decoders.search import SamplingOptions
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, ParamsError
from pipeline.inference.base_captioner import BaseCaptioner, Caption, Features, GenerationOptions, Pixels
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.onnx.folder import DESCRIPTION, ENCODER, FAMILIARITY, RERANKER, START, STEP, read_folder
from pipeline.inference.onnx.search import Array, State, beam_search
from pipeline.inference.reranking import Reranker, search_and_rerank
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import onnxruntime

IMAGE_VECTOR = "image_vector"
"""Output of the start network that re-ranking compares."""


class OnnxCaptioner(BaseCaptioner):
    """A folder that `captioner export --onnx` wrote.

    >>> OnnxCaptioner.load("models/onnx")("photo.jpg")  # doctest: +SKIP
    'two dogs run through the snow'
    """

    def __init__(
        self, description: Mapping[str, Any], sessions: "Mapping[str, onnxruntime.InferenceSession]", place: str
    ) -> None:
        try:
            self.spec = EncoderSpec.from_json(description["spec"])
        except ArtefactError as error:
            raise ArtefactError(f"{place}: {error}; export again") from error
        self.vocabulary = Vocabulary.from_json(description["vocabulary"], place)
        self.reranker = None
        self.familiarity = None
        self.model_sha256: str | None = description["model_sha256"]
        """Of the model file that was exported."""
        self.trained_on = description.get("trained_on", {})  # exports before this key was added have none
        self._sessions = sessions
        self._state: list[str] = description["state"]
        self._changing = [name for name in self._state if name not in description["constant_state"]]
        self._attention: bool = description["attention"]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load an export.

        Raises `ArtefactError` without one and when it is damaged or of another version, `ParamsError` for a file and
        without onnxruntime.
        """
        folder = Path(folder)
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ParamsError(
                "--runtime onnx needs onnxruntime; run `pip install -e '.[onnx]'` in the checkout"
            ) from error
        description, parts = read_folder(folder)
        try:
            sessions = {name: _session(onnxruntime, folder / name, parts[name]) for name in (ENCODER, START, STEP)}
            captioner = cls(description, sessions, str(folder / DESCRIPTION))
            if RERANKER in parts:
                sizes = {"vocabulary": len(captioner.vocabulary), "hidden": description["hidden"]}
                captioner.reranker = Reranker.from_arrays(*_arrays(folder / RERANKER, parts), **sizes)
            if FAMILIARITY in parts:
                sizes = {"channels": description["channels"]}
                captioner.familiarity = Familiarity.from_arrays(*_arrays(folder / FAMILIARITY, parts), **sizes)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder}: not a complete export: {error}; export again") from error
        return captioner

    def encode(self, pixels: Pixels) -> Array:
        """Features (B, R, C) of preprocessed images (B, S, S, 3)."""
        features: Array = self._sessions[ENCODER].run(["features"], {"pixels": pixels})[0]
        return features

    def caption_features(
        self,
        features: Features,
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """See `BaseCaptioner`. Raises `ParamsError` for what only the torch runtime can do."""
        options = self._options(options)
        if isinstance(options.search, SamplingOptions):
            raise ParamsError("--sample: the onnx runtime does not sample; use --runtime torch with a model file")
        if options.search.precision != "float32":
            raise ParamsError(f"precision {options.search.precision}: the onnx runtime computes in float32")
        # The image vectors (B, H) and the decoder's first state.
        vectors, *state = self._sessions[START].run([IMAGE_VECTOR, *self._state], {"features": features})
        hypotheses = search_and_rerank(
            lambda search, count: beam_search(self._step, state, search, captions=count, attention=attention),
            lambda: vectors,
            self.reranker,
            options=options.search,
            rerank=options.rerank,
            captions=captions,
        )
        return self._decoded(hypotheses, features)

    def _step(self, state: State, tokens: Array) -> tuple[Array, State, Array | None]:
        inputs = dict(zip(self._state, state, strict=True))
        outputs = ["log_probs", *(["attention"] if self._attention else [])]
        changed = [f"next_{name}" for name in self._changing]
        log_probs, *rest = self._sessions[STEP].run(outputs + changed, {**inputs, "tokens": tokens.astype(np.int64)})
        weights = rest.pop(0) if self._attention else None
        following = inputs | dict(zip(self._changing, rest, strict=True))
        return log_probs, list(following.values()), weights


def _arrays(path: Path, parts: Mapping[str, bytes]) -> tuple[dict[str, Array], str]:
    """The arrays of a safetensors file and its path. Raises `ArtefactError` naming it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(parts[path.name]), str(path)
    except SafetensorError as error:
        raise ArtefactError(f"{path}: cannot be loaded: {error}; export again") from error


def _session(onnxruntime: Any, path: Path, content: bytes) -> "onnxruntime.InferenceSession":
    """Load a network. Raises `ArtefactError` naming the file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not occupy cores
    if path.name != ENCODER:
        options.intra_op_num_threads = 1  # a step of the decoder is too small to gain from threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each kind of wrong file
        raise ArtefactError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}; export again") from error
