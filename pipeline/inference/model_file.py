"""captioner.safetensors: one file that holds everything needed to caption an image.

Tensors are `decoder.*`; `encoder.*` where the encoder's weights cannot be downloaded by name; `reranker.*` where
the model stores its training captions; and `familiarity.*` with the distribution of the training features, if there
were enough images. The metadata is described in `model_metadata`. Loading a file runs no code
from it. Tensors of the decoder and the encoder may be rounded (`weight_rounding`); they are loaded as float32.

B images, R regions, C channels, H hidden size of the decoder.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from pipeline import paths
from pipeline.accel.decoders import accelerate
from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.registry import make_decoder
from pipeline.decoders.search import Hypothesis, SearchOptions
from pipeline.encoders.spec import EncoderSpec, sha256_of_tensors
from pipeline.errors import ArtefactError, ParamsError
from pipeline.features.feature_file import FeatureFile
from pipeline.files import write_bytes
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.model_metadata import COPY, KEY, ModelMetadata, Scalar, opened, wrong_metadata
from pipeline.inference.reranking import NO_RERANKING, Reranker, search_and_rerank
from pipeline.options import RerankOptions
from pipeline.starter import STARTER
from pipeline.text.vocabulary import Vocabulary
from pipeline.weight_rounding import SCALE, in_float32, round_weights


@dataclass(frozen=True)
class TrainedModel:
    """A trained decoder with its vocabulary and the description of its encoder."""

    decoder: Decoder
    decoder_params: Mapping[str, Any]
    """The resolved options of the decoder, with its kind."""
    vocabulary: Vocabulary
    spec: EncoderSpec
    regions: int
    channels: int
    encoder_tensors: Mapping[str, Tensor] | None
    """None when the encoder's weights can be downloaded by the name in `spec`."""
    params: Mapping[str, Any]
    """All resolved params of the training run."""
    trained_on: Mapping[str, Scalar]
    """Hashes and counts of the training data, and the best epoch."""
    reranker: Reranker | None = None
    """The training captions; None for a model that does not store them."""
    familiarity: Familiarity | None = None
    """The distribution of the training features; None for a model of few images or of an older version."""

    def search(
        self,
        features: Tensor,
        search: SearchOptions,
        rerank: RerankOptions = NO_RERANKING,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """The best `captions` hypotheses for each of `features` (B, R, C), best first.

        Beam search with a beam of at least `captions`, followed by re-ranking if `rerank.neighbors` is not 0. Raises
        `ParamsError` as `search_and_rerank` does.
        """
        return search_and_rerank(
            lambda options, count: beam_search(self.decoder, features, options, captions=count, attention=attention),
            lambda: image_vectors(self.decoder, features),
            self.reranker,
            options=search,
            rerank=rerank,
            captions=captions,
        )

    def with_reranker(self, features: Iterable[Tensor], captions: Sequence[Sequence[Sequence[int]]]) -> Self:
        """A copy of the model that stores the training captions.

        `features` are the training images' in batches (n, R, C); `captions` holds the token ids of each image's
        captions in the same order, without begin and end.
        """
        vectors = np.concatenate([image_vectors(self.decoder, batch) for batch in features])
        return replace(self, reranker=Reranker.build(vectors, captions, vocabulary=len(self.vocabulary)))

    def for_inference(self, device: torch.device) -> Self:
        """A copy of the model on `device` with a decoder that searches faster. It cannot be saved or trained."""
        return replace(self, decoder=accelerate(deepcopy(self.decoder).to(device), device))

    def check_features(self, features: FeatureFile) -> None:
        """Raise `ArtefactError` listing every difference between the model's encoder and that of the features."""
        path, differences = features.path, self.spec.differences(features.spec)
        if differences:
            raise ArtefactError(
                f"{path}: not the features that the model was trained on: "
                f"{'; '.join(differences)}; run `dvc repro` if both are this project's, else give the features of the "
                "model's encoder"
            )
        found, expected = (features.regions, features.channels), (self.regions, self.channels)
        if found != expected:
            raise ArtefactError(
                f"{path}: features of (regions, channels) {found}, the model expects {expected}; import them with "
                f"--regions {self.regions}"
            )

    def save(self, path: Path, *, rounded: bool = False) -> None:
        """Write the model file, the decoder's weights in fewer bits if `rounded` is true.

        Raises `DiskError`, and `DataError` for weights that cannot be rounded.
        """
        from safetensors.torch import save

        tensors = {f"decoder.{name}": tensor.cpu().contiguous() for name, tensor in self.decoder.state_dict().items()}
        if rounded:
            tensors = round_weights(tensors)
        tensors |= {f"encoder.{name}": tensor for name, tensor in (self.encoder_tensors or {}).items()}
        for prefix, part in (("reranker", self.reranker), ("familiarity", self.familiarity)):
            arrays = part.arrays() if part else {}
            tensors |= {f"{prefix}.{name}": torch.from_numpy(array) for name, array in arrays.items()}
        metadata = ModelMetadata(
            decoder=dict(self.decoder_params),
            vocabulary=self.vocabulary.to_json(),
            spec=self.spec.to_json(),
            regions=self.regions,
            channels=self.channels,
            params=dict(self.params),
            trained_on=dict(self.trained_on),
            tensors_sha256=sha256_of_tensors(tensors),
        )
        write_bytes(path, save(tensors, {KEY: metadata.to_json()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model file.

        Raises `ArtefactError` when there is none or it is not a complete, undamaged file of this schema, `ParamsError`
        for a folder.
        """
        if path.is_dir():
            exported = "; an export is read by `predict` and `serve` with --runtime onnx"
            remedy = "name a model file" + exported * any(path.glob("*.onnx"))
            raise ParamsError(f"{path}: a folder; {remedy}")
        if not path.is_file():
            raise ArtefactError(f"{path}: no such model file; {_remedy(path)}")
        with opened(path, framework="pt") as file:
            metadata = ModelMetadata.from_json((file.metadata() or {}).get(KEY, ""), path)
            vocabulary = Vocabulary.from_json(metadata.vocabulary, str(path))
            spec = _spec(metadata, path)
            decoder = _unallocated_decoder(metadata, len(vocabulary), spec, path)
            _check_sizes(file, decoder, path)
            # Copied, because safetensors maps the file: a model that is loaded must outlive a change of its file.
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            if sha256_of_tensors(tensors) != metadata.tensors_sha256:
                raise ArtefactError(f"{path}: damaged: the tensors do not match their sha256; {COPY}")
            weights = in_float32(_below("decoder.", tensors))
            _check_finite(weights, path)
            decoder.to_empty(device="cpu").load_state_dict(weights)
            arrays = {name: tensor.numpy() for name, tensor in _below("reranker.", tensors).items()}
            sizes = {"vocabulary": len(vocabulary), "hidden": decoder.hidden}
            gaussian = {name: tensor.numpy() for name, tensor in _below("familiarity.", tensors).items()}
            return cls(
                decoder=decoder.eval(),
                decoder_params=metadata.decoder,
                vocabulary=vocabulary,
                spec=spec,
                regions=metadata.regions,
                channels=metadata.channels,
                encoder_tensors=in_float32(_below("encoder.", tensors)) or None,
                params=metadata.params,
                trained_on=metadata.trained_on,
                reranker=Reranker.from_arrays(arrays, str(path), **sizes) if arrays else None,
                familiarity=Familiarity.from_arrays(gaussian, str(path), channels=metadata.channels)
                if gaussian
                else None,
            )


@torch.inference_mode()
def image_vectors(decoder: Decoder, features: Tensor) -> NDArray[np.float32]:
    """The decoder's vectors (B, H) of images with `features` (B, R, C), before the first token."""
    decoder.eval()
    on_device = features.to(next(decoder.parameters()).device).float()
    vectors: NDArray[np.float32] = decoder.image_vector(decoder.start(on_device)).float().cpu().numpy()
    return vectors


def _remedy(path: Path) -> str:
    """What to do without the model file `path`."""
    if re.match(r"\w{2,}:/", path.as_posix()):
        return "download the file and give its path"
    return f"`dvc repro` writes {paths.MODEL}, and {STARTER} is the model that comes with the program"


def _spec(metadata: ModelMetadata, path: Path) -> EncoderSpec:
    try:
        return EncoderSpec.from_json(metadata.spec)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; train again") from error


def _unallocated_decoder(metadata: ModelMetadata, vocabulary: int, spec: EncoderSpec, path: Path) -> Decoder:
    """The decoder that the metadata describes, without memory for its weights."""
    sizes = {"regions": metadata.regions, "channels": metadata.channels}
    try:
        with torch.device("meta"):
            return make_decoder(metadata.decoder, vocabulary=vocabulary, padded=spec.imported, **sizes)
    except ValidationError as error:
        raise wrong_metadata(path, error, "decoder") from error


def _check_sizes(file: Any, decoder: Decoder, path: Path) -> None:
    """Compare the header of the file with the decoder's tensors. Raises `ArtefactError`."""
    expected = {f"decoder.{name}": tuple(tensor.shape) for name, tensor in decoder.state_dict().items()}
    names = set(file.keys())
    dtypes = {name: file.get_slice(name).get_dtype() for name in names}
    expected |= {name + SCALE: shape[:1] for name, shape in expected.items() if dtypes.get(name) == "I8"}
    missing = sorted(expected.keys() - names)
    others = names - expected.keys()
    unknown = sorted(name for name in others if not name.startswith(("encoder.", "reranker.", "familiarity.")))
    for problem, which in (("missing", missing), ("unknown", unknown)):
        if which:
            raise ArtefactError(f"{path}: {problem} tensor {which[0][:80]}; train again")
    for name, shape in expected.items():
        found = tuple(file.get_slice(name).get_shape())
        if found != shape or dtypes[name] not in {"F32", "F16", "I8"}:
            raise ArtefactError(
                f"{path}: tensor {name} is {dtypes[name]} {found}, the metadata describe F32 {shape}; train again"
            )


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{path}: tensor {name} has values that are not finite; train again")


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
