"""A trained captioner whose weights a new training starts from: `train.init_from`.

V tokens of the vocabulary, E embedding, O input of the output layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from pipeline.decoders.decoder import Decoder
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError
from pipeline.files import sha256_of
from pipeline.inference.initial_metadata import InitialMetadata, find_model, unusable
from pipeline.inference.model_file import TrainedModel
from pipeline.text.vocabulary import Vocabulary

_BY_TOKEN = {"embedding.weight", "output.weight", "output.bias"}
"""Tensors (V, E), (V, O) and (V,) with one row per token."""


@dataclass(frozen=True)
class InitialModel:
    """The model that `train.init_from` names."""

    name: str
    """`starter`, or the file as params name it."""
    sha256: str
    """Hex sha256 of the model file."""
    model: TrainedModel

    @classmethod
    def load(cls, name: str, *, output: Path) -> Self | None:
        """Load the model; None for `none`. Raises as `find_model` does, and `ArtefactError` for a damaged file."""
        path = find_model(name, output=output)
        if path is None:
            return None
        try:
            return cls(name, sha256_of(path), TrainedModel.load(path))
        except ArtefactError as error:
            raise unusable(error) from error

    def facts(self) -> dict[str, str]:
        """What a model that was trained from this one records of it."""
        return {"init_from": Path(self.name).name, "init_from_sha256": self.sha256}

    def check(self, spec: EncoderSpec, options: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        """Compare the model with the features, the decoder's options and the vocabulary of a new training.

        Raises as `InitialMetadata.check` does.
        """
        model = self.model
        metadata = InitialMetadata(self.name, model.spec, model.decoder_params, model.vocabulary.tokenizer)
        metadata.check(options, vocabulary.tokenizer, spec)

    def known_tokens(self, vocabulary: Vocabulary) -> int:
        """The number of tokens that both vocabularies have."""
        return len(set(vocabulary.tokens) & set(self.model.vocabulary.tokens))

    @torch.no_grad()
    def initialize(self, decoder: Decoder, vocabulary: Vocabulary) -> None:
        """Copy the model's weights and feature normalization into `decoder`, whose tokens are those of `vocabulary`.

        Embeddings and output rows are matched by token. Tokens that the model does not know keep their values in
        `decoder`. Raises `ArtefactError` when a tensor has another shape.
        """
        trained = self.model.decoder.state_dict()
        known = {token: index for index, token in enumerate(self.model.vocabulary.tokens)}
        pairs = [(index, known[token]) for index, token in enumerate(vocabulary.tokens) if token in known]
        ours, theirs = torch.tensor(pairs).T
        for name, tensor in decoder.state_dict().items():  # shares the decoder's memory
            source = trained[name]
            if name in _BY_TOKEN:
                tensor[ours] = source[theirs]
            elif tensor.shape == source.shape:
                tensor.copy_(source)
            else:  # another number of imported channels
                raise ArtefactError(
                    f"params.train.init_from: {self.name} has the tensor {name} of shape {tuple(source.shape)}, the "
                    f"features here need {tuple(tensor.shape)}; set init_from to none"
                )
