"""From a picture to its caption with one model file: the Python interface behind `captioner predict`."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.decoders.beam_search import Hypothesis, SamplingOptions, SearchOptions, sample
from pipeline.device import choose_device, single_threaded
from pipeline.encoders.encoder import Encoder, restore
from pipeline.inference.base_captioner import Answer, BaseCaptioner, Caption, Pixels
from pipeline.inference.model_file import TrainedModel
from pipeline.startup import UnfilledWeights, without_compiler

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Answer", "Caption", "Captioner", "SamplingOptions", "SearchOptions"]


class Captioner(BaseCaptioner[SearchOptions | SamplingOptions]):
    """A loaded model.

    >>> captioner = Captioner.load("models/captioner.safetensors")  # doctest: +SKIP
    >>> captioner("photo.jpg")  # doctest: +SKIP
    'two dogs run through the snow'
    >>> captioner(["photo.jpg", "another.png"])  # doctest: +SKIP
    ['two dogs run through the snow', 'a child in a red coat']
    """

    search_options = SearchOptions

    def __init__(self, model: TrainedModel, encoder: Encoder, device: torch.device) -> None:
        self.model = model
        self.encoder = encoder
        self.device = device
        self.spec = model.spec
        self.vocabulary = model.vocabulary
        self.consensus = model.consensus
        self.batch_size = 16 if device.type == "cpu" else 64

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """Raises `DataError` without a file, `ArtefactError` for a damaged one, `ParamsError` for the device."""
        model = TrainedModel.load(Path(path))
        chosen = choose_device(device)
        model.decoder.to(chosen)
        with without_compiler():
            import torchvision.models.feature_extraction  # noqa: F401
        with UnfilledWeights():
            encoder = restore(model.spec, model.encoder_tensors, chosen)
        return cls(model, encoder, chosen)

    def prepare(self, picture: "Image.Image") -> Pixels:
        return self.encoder.prepare(picture)

    def describe(
        self, pixels: Pixels, search: SearchOptions | SamplingOptions | None = None, *, captions: int = 1, attention: bool = False
    ) -> list[list[Caption]]:
        search = search or self.make_search()
        with single_threaded():  # a step of the decoder is too small to be worth sharing out
            features = torch.from_numpy(self.encode(pixels)).to(self.device).float()
            if isinstance(search, SamplingOptions):
                found = self._drawn(features, search, captions, attention)
            else:
                search = replace(search, beam_size=max(search.beam_size, captions))
                found = self.model.search(features, search, captions=captions, attention=attention)
        return self._told(found)

    def make_sampling(self, **options: Any) -> SamplingOptions:
        return SamplingOptions(**options)

    @torch.inference_mode()
    def _drawn(
        self, features: torch.Tensor, sampling: SamplingOptions, captions: int, attention: bool
    ) -> list[list[Hypothesis]]:
        """Random captions; picture by picture, so that the seed gives a picture the same ones in any company."""
        decoder = self.model.decoder.eval()
        found = []
        for one in features.split(1):
            own = replace(sampling, seed=_own_seed(sampling.seed, one))
            found += sample(decoder, one, own, captions=captions, attention=attention)
        return found

    def encode(self, pixels: Pixels) -> NDArray[np.float16]:
        """Rows (B, R, C), bit for bit those that `extract` gives: on a CPU one thread computes each of them."""
        workers = min(len(pixels), os.cpu_count() or 1)
        with single_threaded():
            if self.device.type != "cpu" or workers == 1:
                return self.encoder.encode(pixels)
            with ThreadPoolExecutor(workers) as pool:
                return np.concatenate(list(pool.map(self.encoder.encode, np.array_split(pixels, workers))))

    def save(self, path: Path) -> None:
        """Write the model file with the encoder's weights inside, so that nothing is downloaded. Raises `DiskError`."""
        tensors = {name: value.cpu().contiguous() for name, value in self.encoder.network.state_dict().items()}
        replace(self.model, encoder_tensors=tensors).save(path)


def _own_seed(seed: int, features: torch.Tensor) -> int:
    """Of a picture by its features: with one for all, pictures that are alike would draw the same caption."""
    content = f"{seed} ".encode() + features.cpu().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:7])
