"""The Python interface behind `captioner predict`: from images to captions with one model file."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.decoders.sampling import sample
from pipeline.decoders.search import Hypothesis, SamplingOptions
from pipeline.device import choose_device, single_threaded
from pipeline.encoders.encoder import Encoder, restore_encoder
from pipeline.errors import ArtefactError, ParamsError
from pipeline.inference.base_captioner import BaseCaptioner, Caption, Features, GenerationOptions, Pixels
from pipeline.inference.model_file import TrainedModel
from pipeline.inference.reranking import check_caption_count
from pipeline.starter import STARTER, model_path

CPU_BATCH, ACCELERATOR_BATCH = 16, 64


class Captioner(BaseCaptioner):
    """A loaded model.

    >>> captioner = Captioner.load("models/captioner.safetensors")  # doctest: +SKIP
    >>> captioner("photo.jpg")  # doctest: +SKIP
    'two dogs run through the snow'
    >>> captioner(["photo.jpg", "another.png"])  # doctest: +SKIP
    ['two dogs run through the snow', 'a child in a red coat']
    """

    def __init__(self, model: TrainedModel, encoder: Encoder | None, device: torch.device) -> None:
        """Without an encoder only `caption_features` can be used."""
        self.model = model
        self._search_model = model.for_inference(device)
        self._encoder = encoder
        self.device = device
        self.spec = model.spec
        self.vocabulary = model.vocabulary
        self.reranker = model.reranker
        self.familiarity = model.familiarity
        self.trained_on = model.trained_on
        self.batch_size = CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH

    @classmethod
    def load(cls, path: str | Path = STARTER, *, device: str = "auto", encoder: bool = True) -> Self:
        """Load a model file, by default the starter; `encoder=False` leaves out the encoder.

        Raises `ArtefactError` without a file, for a damaged one and for a model of imported features, which has no
        encoder, `ParamsError` for a folder and for the device.
        """
        chosen = choose_device(device)
        path = model_path(path)
        model = TrainedModel.load(path)
        return cls(model, cls._restored_encoder(model, path, chosen) if encoder else None, chosen)

    @staticmethod
    def _restored_encoder(model: TrainedModel, path: str | Path, device: torch.device) -> Encoder:
        try:
            encoder = restore_encoder(model.spec, model.encoder_tensors, device)
        except (ArtefactError, ParamsError) as error:
            # A key of params.yaml in the message is one of the copy in the model file.
            raise ArtefactError(f"{path}: {str(error).removeprefix('params.')}") from error
        found, expected = (encoder.regions, encoder.channels), (model.regions, model.channels)
        if found != expected:
            raise ArtefactError(
                f"{path}: the encoder gives (regions, channels) {found}, the decoder expects {expected}; train again"
            )
        return encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder of the model's spec. Raises `ParamsError` when it was left out."""
        if self._encoder is None:
            raise ParamsError("this captioner was loaded without its encoder; load it without encoder=False")
        return self._encoder

    def caption_features(
        self,
        features: Features,
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """See `BaseCaptioner`."""
        options = self._options(options)
        with single_threaded():  # a step of the decoder is too small to gain from threads
            on_device = torch.from_numpy(features).to(self.device).float()
            if isinstance(options.search, SamplingOptions):
                hypotheses = self._sample(on_device, options.search, captions, attention)
            else:
                hypotheses = self._search_model.search(
                    on_device, options.search, options.rerank, captions=captions, attention=attention
                )
        return self._decoded(hypotheses, features)

    def encode(self, pixels: Pixels) -> NDArray[np.float16]:
        """Features (B, R, C), bit for bit those of the stage `extract`: on a CPU one thread computes each image."""
        threads = min(len(pixels), os.cpu_count() or 1)
        with single_threaded():
            if self.device.type != "cpu" or threads == 1:
                return self.encoder.encode(pixels)
            with ThreadPoolExecutor(threads) as pool:
                return np.concatenate(list(pool.map(self.encoder.encode, np.array_split(pixels, threads))))

    def save(self, path: str | Path) -> None:
        """Write the model file with the encoder's weights inside, so that nothing is downloaded. Raises `DiskError`."""
        tensors = {name: value.cpu().contiguous() for name, value in self.encoder.network.state_dict().items()}
        replace(self.model, encoder_tensors=tensors).save(Path(path))

    @torch.inference_mode()
    def _sample(
        self, features: Tensor, options: SamplingOptions, captions: int, attention: bool
    ) -> list[list[Hypothesis]]:
        """Sampled captions. Each image has its own seed, so that its captions do not depend on the batch.

        Raises `ParamsError` for a number of captions out of range.
        """
        check_caption_count(captions)
        decoder = self._search_model.decoder.eval()
        hypotheses = []
        for one in features.split(1):
            own = replace(options, seed=_image_seed(options.seed, one))
            hypotheses += sample(decoder, one, own, captions=captions, attention=attention)
        return hypotheses


def _image_seed(seed: int, features: Tensor) -> int:
    """A seed derived from the features: with one seed for all, similar images would draw the same caption."""
    content = f"{seed} ".encode() + features.cpu().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:7])
