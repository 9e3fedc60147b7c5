"""A trained captioner whose weights a new training starts from: `train.init_from`.

V tokens of the vocabulary, E embedding, O input of the output layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.decoders.decoder import Decoder
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, DataError, ParamsError
from pipeline.files import sha256_of
from pipeline.inference.model_file import TrainedModel
from pipeline.starter import model_path
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
        """Load the model; None for `none`. `output` is the file that training writes.

        Raises `DataError` without a file, `ArtefactError` for a damaged one, `ParamsError` for the output itself.
        """
        if name == "none":
            return None
        path = model_path(name)
        if path.resolve() == output.resolve():
            raise ParamsError(
                f"params.train.init_from: {name}: is the file that training writes, and `dvc repro` deletes it before; "
                f"`dvc checkout {output}` restores it; copy it, and set init_from to the copy"
            )
        if not path.is_file():
            raise DataError(f"params.train.init_from: {name}: no such model file; correct the path, or set it to none")
        return cls(name, sha256_of(path), TrainedModel.load(path))

    def facts(self) -> dict[str, str]:
        """What a model that was trained from this one records of it."""
        return {"init_from": Path(self.name).name, "init_from_sha256": self.sha256}

    def check(self, spec: EncoderSpec, options: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        """Compare the model with the features, the decoder's options and the vocabulary of a new training.

        Dropout rates may differ, and so may the name of the encoder's weights. Raises `ArtefactError` for another
        encoder, `ParamsError` for another decoder or another unit of tokens.
        """
        differences = replace(self.model.spec, weights=spec.weights).differences(spec)
        if differences:
            raise ArtefactError(
                f"params.train.init_from: {self.name} was trained with another encoder (model, features): "
                f"{'; '.join(differences)}; {_remedy(self.model.spec, self.name)}"
            )
        own = self.model.decoder_params
        different = [
            key for key in options if not key.endswith("_dropout") and options[key] != own.get(key, options[key])
        ]
        if different:
            listed = ", ".join(f"{key} {own.get(key)} (here {options[key]})" for key in different)
            raise ParamsError(
                f"params.train.init_from: {self.name} has another decoder: {listed}; "
                "set params.decoder as in the model, or init_from to none"
            )
        if self.model.vocabulary.tokenizer != vocabulary.tokenizer:
            raise ParamsError(
                f"params.train.init_from: {self.name} has tokens of the tokenizer {self.model.vocabulary.tokenizer}, "
                f"here they are of {vocabulary.tokenizer}; change params.vocab.unit, or set init_from to none"
            )

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
            if name in _BY_TOKEN:
                tensor[ours] = trained[name][theirs]
            else:
                _copy(tensor, trained[name], name, self.name)


def _copy(tensor: Tensor, trained: Tensor, name: str, model: str) -> None:
    """Raises `ArtefactError` when the shapes differ, as they do for another number of imported channels."""
    if tensor.shape != trained.shape:
        raise ArtefactError(
            f"params.train.init_from: {model} has the tensor {name} of shape {tuple(trained.shape)}, the features "
            f"here need {tuple(tensor.shape)}; set init_from to none"
        )
    tensor.copy_(trained)


def _remedy(spec: EncoderSpec, name: str) -> str:
    """How to get features of `spec`, the encoder of the model file `name`."""
    if spec.imported:
        return f"import the features of {spec.name} with `captioner import-features`, or set init_from to none"
    weights = name if spec.weights == "file" else spec.weights
    if spec.weights.startswith("random:"):
        weights = f"none (seed {spec.weights.removeprefix('random:')})"
    preprocessing = spec.preprocessing
    values = {
        "source": spec.source,
        "name": spec.name,
        "weights": weights,
        "layer": spec.layer,
        "grid": spec.grid,
        "image_size": preprocessing.size,
        "fit": "stretch" if preprocessing.shorter_side is None else "crop",
        "truncated_jpegs": "fill" if preprocessing.fill_truncated else "skip",
        "precision": spec.precision,
    }
    listed = ", ".join(f"{key}: {value}" for key, value in values.items())
    return f"set params.encoder to {listed} and run `dvc repro`"
