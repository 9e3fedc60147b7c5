"""From a picture to its caption with one model file: the Python interface behind `captioner predict`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from pipeline.bundle import Bundle
from pipeline.decoders.search import Hypothesis, Search, beam_search
from pipeline.device import choose_device, single_compute_thread
from pipeline.errors import DataError
from pipeline.features import images
from pipeline.features.encoder import Encoder, restore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Picture = str | Path | bytes | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True)
class Caption:
    """What was said of one picture."""

    text: str
    score: float
    """Log-probability over the length to the power of the length penalty; nearer to zero is surer."""


@dataclass(frozen=True)
class Answer:
    """One file's captions, best first, or why there are none."""

    path: Path
    captions: tuple[Caption, ...] = ()
    error: str | None = None


class Captioner:
    """A loaded model.

    >>> captioner = Captioner.load("models/captioner.safetensors")  # doctest: +SKIP
    >>> captioner("photo.jpg")  # doctest: +SKIP
    'two dogs run through the snow'
    """

    def __init__(self, bundle: Bundle, encoder: Encoder, device: torch.device) -> None:
        self.bundle = bundle
        self.encoder = encoder
        self.device = device

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """Raises `DataError` without a file, `ArtefactError` for a damaged one, `ParamsError` for the device."""
        bundle = Bundle.load(Path(path))
        chosen = choose_device(device)
        bundle.decoder.to(chosen)
        return cls(bundle, restore(bundle.spec, bundle.encoder_tensors, chosen), chosen)

    def __call__(self, picture: "Picture", search: Search = Search()) -> str:
        """The best caption of a path, a file's bytes, a Pillow picture or uint8 pixels (H, W[, 3]).

        Raises `DataError` for a bad picture.
        """
        return self.captions([picture], search)[0][0].text

    def captions(
        self, pictures: "Sequence[Picture]", search: Search = Search(), *, captions: int = 1
    ) -> list[list[Caption]]:
        """The best `captions` captions of each picture. Raises `DataError` for a bad picture."""
        with single_compute_thread():  # the same row, bit for bit, as `extract` gives
            rows = self.encoder.encode_pictures([_open(picture) for picture in pictures])
        search = replace(search, beam_size=max(search.beam_size, captions))
        features = torch.from_numpy(rows).to(self.device).float()
        found = beam_search(self.bundle.decoder, features, search, captions=captions)
        return [[self._caption(hypothesis) for hypothesis in one] for one in found]

    def answers(
        self, paths: Iterable[Path], search: Search = Search(), *, captions: int = 1, batch_size: int = 16
    ) -> Iterator[Answer]:
        """One answer per path, in order, as batches are done; a bad picture is an answer too."""
        batch: list[Path] = []
        for path in paths:
            batch.append(path)
            if len(batch) == batch_size:
                yield from self._answer(batch, search, captions)
                batch = []
        yield from self._answer(batch, search, captions)

    def _answer(self, paths: list[Path], search: Search, number: int) -> Iterator[Answer]:
        pictures: dict[Path, Image.Image] = {}
        errors: dict[Path, str] = {}
        for path in paths:
            try:
                pictures[path] = _open(path)
            except DataError as error:
                errors[path] = str(error)
        captions = self.captions(list(pictures.values()), search, captions=number) if pictures else []
        found = dict(zip(pictures, captions, strict=True))
        for path in paths:
            yield Answer(path, tuple(found.get(path, ())), errors.get(path))

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        return Caption(self.bundle.vocabulary.decode(hypothesis.tokens), hypothesis.score)


def _open(picture: "Picture") -> "Image.Image":
    if not isinstance(picture, str | Path):
        return images.as_picture(picture)
    path = Path(picture)
    try:
        return images.decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise DataError(f"{path}: {error}") from error
