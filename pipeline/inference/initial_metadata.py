"""Checks the metadata of `train.init_from` against params before extraction.

Only the metadata of the model file are read, and torch is not imported. `initial_model.py` loads the whole model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline import paths
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import ArtefactError, ParamsError
from pipeline.inference.model_metadata import COPY, read_metadata
from pipeline.starter import model_path
from pipeline.text.tokenizers import UNITS
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pipeline.params import Params


@dataclass(frozen=True)
class InitialMetadata:
    """Encoder, decoder and tokenizer of the model that `train.init_from` names."""

    name: str
    """`starter`, or the file as params name it."""
    spec: EncoderSpec
    decoder_params: Mapping[str, Any]
    tokenizer: str

    @classmethod
    def load(cls, name: str) -> Self | None:
        """Read the metadata; None for `none`. Raises as `find_model`, and `ArtefactError` for a damaged file."""
        path = find_model(name, output=paths.MODEL)
        if path is None:
            return None
        try:
            metadata = read_metadata(path)
            spec = EncoderSpec.from_json(metadata.spec)
            vocabulary = Vocabulary.from_json(metadata.vocabulary, str(path))
        except ArtefactError as error:
            raise unusable(error) from error
        return cls(name, spec, metadata.decoder, vocabulary.tokenizer)

    def check(self, options: Mapping[str, Any], tokenizer: str, spec: EncoderSpec | None) -> None:
        """Compare the model with the decoder's options, the tokenizer and, if given, the spec of a new training.

        Raises `ParamsError` for another decoder or tokenizer, `ArtefactError` for another encoder. Dropout rates and
        the name of the encoder's weights may differ.
        """
        place, own = f"params.train.init_from: {self.name}", self.decoder_params
        different = [
            key for key in options if not key.endswith("_dropout") and options[key] != own.get(key, options[key])
        ]
        if different:
            listed = ", ".join(f"{key} {own.get(key)} (here {options[key]})" for key in different)
            raise ParamsError(
                f"{place} has another decoder: {listed}; set params.decoder as in the model, or init_from to none"
            )
        if self.tokenizer != tokenizer:
            raise ParamsError(
                f"{place} uses the tokenizer {self.tokenizer}, params.vocab.unit selects {tokenizer}; change "
                "params.vocab.unit, or set init_from to none"
            )
        if spec and (differences := replace(self.spec, weights=spec.weights).differences(spec)):
            remedy = _remedy(self.spec, self.name, spec)
            raise ArtefactError(f"{place} was trained with another encoder: {'; '.join(differences)}; {remedy}")


def check_initial_model(params: "Params", spec: EncoderSpec | None = None) -> None:
    """Check the model of `train.init_from` against params and, if given, against the `spec` of the built encoder.

    Raises `ParamsError` without a file, `ArtefactError` for a damaged one, and as `InitialMetadata.check` does. The
    encoder of a model of imported features is compared in training, because such features do not come from
    `params.encoder`.
    """
    initial = InitialMetadata.load(params.train.init_from)
    if initial:
        from_params = None if initial.spec.imported else with_encoder_params(initial.spec, params)
        for given in (from_params, spec):
            initial.check(params.decoder.model_dump(), UNITS[params.vocab.unit], given)


def find_model(name: str, *, output: Path) -> Path | None:
    """The model file that `train.init_from` names; None for `none`. `output` is the file that training writes.

    Raises `ParamsError` without a file, and for the output itself.
    """
    if name == "none":
        return None
    path = model_path(name)
    if path.resolve() == output.resolve():
        raise ParamsError(
            f"params.train.init_from: {name} is the output of the stage train, which `dvc repro` deletes before "
            f"training; restore it with `dvc checkout {output}`, copy it, and set init_from to the copy"
        )
    if not path.is_file():
        raise ParamsError(f"params.train.init_from: {name}: no such model file; set it to a path, starter or none")
    return path


def unusable(error: ArtefactError) -> ArtefactError:
    """The error of a model file that cannot be read, with a remedy for `train.init_from`."""
    problem = str(error).partition(f"; {COPY}")[0].partition("; train again")[0]
    return ArtefactError(f"params.train.init_from: {problem}; replace the file, or set init_from to none")


def with_encoder_params(spec: EncoderSpec, params: "Params") -> EncoderSpec:
    """The spec with the fields that `params.encoder` sets; `auto` values and those that come with the weights stay."""
    encoder = params.encoder
    size = spec.preprocessing.size if encoder.image_size == "auto" else encoder.image_size
    shorter_side = None if encoder.fit == "stretch" else spec.preprocessing.shorter_side
    fill = encoder.truncated_jpegs == "fill"
    return replace(
        spec,
        source=encoder.source,
        name=encoder.name,
        layer=spec.layer if encoder.layer == "auto" else encoder.layer,
        grid=encoder.grid,
        preprocessing=replace(
            spec.preprocessing,
            size=size,
            shorter_side=shorter_side,
            fill_truncated=fill,
            jpeg_decoder=encoder.jpeg_decoder,
        ),
    )


def _remedy(spec: EncoderSpec, name: str, own: EncoderSpec) -> str:
    """How to get features of `spec`, the encoder of the model file `name`, instead of those of `own`."""
    if own.imported and not spec.imported:
        return "imported features need a model that was trained on them; set init_from to none"
    if spec.imported:
        return f"import the features of {spec.name} with `captioner import-features`, or set init_from to none"
    weights = name if spec.weights == "file" else spec.weights
    if spec.has_random_weights:
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
        "jpeg_decoder": preprocessing.jpeg_decoder,
        "precision": spec.precision,
    }
    listed = ", ".join(f"{key}: {value}" for key, value in values.items())
    return f"set params.encoder to {listed} and run `dvc repro`"
