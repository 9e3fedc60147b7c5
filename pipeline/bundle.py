"""captioner.safetensors: everything that captions a picture, in one file that cannot be mismatched.

Tensors are `decoder.*` and, when the encoder's weights cannot be fetched by name, `encoder.*`. One metadata key holds
sorted JSON (more than one would be written in random order): the decoder's params, the vocabulary, the EncoderSpec and
what the model was made from. Loading it runs no code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from pipeline.captions.vocabulary import Vocabulary
from pipeline.decoders import Decoder, make_decoder
from pipeline.errors import ArtefactError, DataError
from pipeline.features.spec import EncoderSpec
from pipeline.files import write_bytes

SCHEMA = 1
_KEY = "captioner"


@dataclass(frozen=True)
class Bundle:
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
    """Digests and params behind the model."""

    def save(self, path: Path) -> None:
        """Raises `DiskError`."""
        from safetensors.torch import save

        tensors = {f"decoder.{name}": tensor.cpu().contiguous() for name, tensor in self.decoder.state_dict().items()}
        tensors |= {f"encoder.{name}": tensor for name, tensor in (self.encoder_tensors or {}).items()}
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
            return cls(
                decoder=decoder.eval(),
                decoder_params=metadata["decoder"],
                vocabulary=vocabulary,
                spec=EncoderSpec.from_json(metadata["spec"]),
                encoder_tensors=_below("encoder.", tensors) or None,
                trained_on=metadata["trained_on"],
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


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
