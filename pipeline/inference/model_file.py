"""captioner.safetensors: everything that captions a picture, in one file that cannot be mismatched.

Tensors are `decoder.*`, when the encoder's weights cannot be fetched by name `encoder.*`, and of a model that remembers
its training captions `consensus.*`. One metadata key holds sorted JSON (more than one would be written in random
order): the decoder's params, the vocabulary, the EncoderSpec and what the model was made from. Loading it runs no code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.decoders import Decoder, make_decoder
from pipeline.decoders.beam_search import Hypothesis, SearchOptions, beam_search
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, ParamsError
from pipeline.files import write_bytes
from pipeline.inference.reranking import Reranker
from pipeline.text.vocabulary import Vocabulary

SCHEMA = 1
_KEY = "captioner"
_CHUNK = 256
"""Pictures that a decoder gets to know at a time."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained decoder with all that belongs to it."""

    decoder: Decoder
    decoder_params: dict[str, Any]
    vocabulary: Vocabulary
    spec: EncoderSpec
    regions: int
    channels: int
    encoder_tensors: dict[str, Tensor] | None
    """None when torchvision can fetch the weights that `spec` names."""
    trained_on: dict[str, Any]
    """ImageHashes and params behind the model."""
    consensus: Reranker | None = None
    """What people said of the training pictures; None for a model that does not store_captions it."""

    def search(
        self, features: Tensor, search: SearchOptions, *, captions: int = 1, attention: bool = False
    ) -> list[list[Hypothesis]]:
        """As `beam_search`, and by consensus with the training pictures alike where `search` asks for `neighbours`.

        Raises `ParamsError` when the model does not store_captions its training captions.
        """
        if not search.neighbours:
            return beam_search(self.decoder, features, search, captions=captions, attention=attention)
        if self.consensus is None:
            raise ParamsError(
                f"neighbours: {search.neighbours}, but this model does not store_captions its training captions: use 0, or "
                "train with params.train.store_captions: true"
            )
        wider = replace(search, beam_size=max(search.beam_size, captions))
        found = beam_search(self.decoder, features, wider, captions=wider.beam_size, attention=attention)
        known = what_is_known(self.decoder, features)
        ranked = self.consensus.ranked(known, found, neighbours=search.neighbours, weight=search.consensus)
        return [best[:captions] for best in ranked]

    def remembering(self, features: Tensor, captions: Sequence[Sequence[Sequence[int]]]) -> Self:
        """The same model with the training captions in it: of each picture's `features` (N, R, C) the token numbers of
        what people said, without begin and end."""
        known = np.concatenate([what_is_known(self.decoder, chunk) for chunk in features.split(_CHUNK)])
        return replace(self, consensus=Reranker.store_captions(known, captions, vocabulary=len(self.vocabulary)))

    def save(self, path: Path) -> None:
        """Raises `DiskError`."""
        from safetensors.torch import save

        tensors = {f"decoder.{name}": tensor.cpu().contiguous() for name, tensor in self.decoder.state_dict().items()}
        tensors |= {f"encoder.{name}": tensor for name, tensor in (self.encoder_tensors or {}).items()}
        if self.consensus:
            arrays = self.consensus.arrays()
            tensors |= {f"consensus.{name}": torch.from_numpy(array) for name, array in arrays.items()}
        metadata = {
            "schema": SCHEMA,
            "decoder": self.decoder_params,
            "vocabulary": self.vocabulary.to_json(),
            "spec": self.spec.to_json(),
            "regions": self.regions,
            "channels": self.channels,
            "trained_on": self.trained_on,
        }
        write_bytes(path, save(tensors, {_KEY: json.dumps(metadata, sort_keys=True, ensure_ascii=False)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises `DataError` when there is no such file, `ArtefactError` when it is not a whole model of ours."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise DataError(f"{path}: no such model; `dvc repro` makes models/captioner.safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if metadata["schema"] != SCHEMA:
                raise ArtefactError(f"{path}: schema {metadata['schema']}, this program reads {SCHEMA}; train again")
            vocabulary = Vocabulary.from_json(metadata["vocabulary"], str(path))
            sizes = {"regions": metadata["regions"], "channels": metadata["channels"]}
            decoder = make_decoder(metadata["decoder"], vocabulary=len(vocabulary), **sizes)
            decoder.load_state_dict(_below("decoder.", tensors))
            remembered = {name: tensor.numpy() for name, tensor in _below("consensus.", tensors).items()} or None
            return cls(
                decoder=decoder.eval(),
                decoder_params=metadata["decoder"],
                vocabulary=vocabulary,
                spec=EncoderSpec.from_json(metadata["spec"]),
                encoder_tensors=_below("encoder.", tensors) or None,
                trained_on=metadata["trained_on"],
                consensus=remembered
                and Reranker.from_arrays(remembered, str(path), vocabulary=len(vocabulary), width=decoder.hidden),
                **sizes,
            )
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ArtefactError(f"{path}: not a model of captioner: {error}; train again with `dvc repro`") from error

    def check_features(self, spec: EncoderSpec, place: Path) -> None:
        """Raises `ArtefactError` naming every difference when features were made otherwise than the model's."""
        differences = self.spec.differences(spec)
        if differences:
            raise ArtefactError(
                f"{place}: not the features that the model was trained on (model, features): "
                f"{'; '.join(differences)}; run `dvc repro`"
            )


@torch.inference_mode()
def what_is_known(decoder: Decoder, features: Tensor) -> NDArray[np.float32]:
    """Of each picture (B, H), by a decoder that has read its features (B, R, C) and no word yet."""
    decoder.eval()
    on_its_device = features.to(next(decoder.parameters()).device).float()
    known: NDArray[np.float32] = decoder.picture(decoder.start(on_its_device)).float().cpu().numpy()
    return known


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
