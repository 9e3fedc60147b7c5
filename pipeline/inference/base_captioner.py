"""From images to captions: what the torch captioner and the ONNX captioner have in common.

This module does not import torch.

B images, S side of the encoder's input, R regions.
"""

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.archives import read_image_bytes
from pipeline.decoders.search import Hypothesis, SamplingOptions, SearchOptions
from pipeline.encoders import images
from pipeline.encoders.image_end import holds_several_images
from pipeline.encoders.spec import EncoderSpec
from pipeline.errors import DataError, ParamsError
from pipeline.inference.familiarity import Familiarity
from pipeline.inference.model_metadata import Scalar
from pipeline.inference.reranking import NO_RERANKING, Reranker
from pipeline.options import RerankOptions, first_error
from pipeline.text import character_tokenizer
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    ImageInput = str | Path | bytes | NDArray[np.uint8] | Image.Image

DEFAULT_NEIGHBORS = 60
"""Neighbors to re-rank with where the model stores its training captions; measured in docs/ablations.md."""
RERANK_BEAM = 10
"""The default beam size then: re-ranking can only choose what the search found."""

AnyImage = TypeVar("AnyImage", bound="ImageInput")
Pixels = NDArray[np.uint8]
"""Input of the encoder, (S, S, 3) or (B, S, S, 3), RGB from 0 to 255."""
Features = NDArray[np.float16 | np.float32]


@dataclass(frozen=True)
class Caption:
    """A generated caption."""

    text: str
    tokens: tuple[str, ...]
    """Words, or characters if the vocabulary's unit is the character."""
    score: float
    """Log-probability divided by the length to the power of the length penalty. Higher is better."""
    log_probability: float
    attention: tuple[tuple[float, ...], ...] | None = None
    """For each token, the attention weights over the `grid` x `grid` regions, row by row; they sum to 1."""
    agreement: float | None = None
    """Mean CIDEr-D (0 to 10) against the captions of similar training images; None without re-ranking."""
    familiarity: float | None = None
    """Of the image: the share (0 to 1) of the val images that are at least as unlike the training images; None for a
    model that does not store what this needs."""

    @property
    def certainty(self) -> float:
        """Geometric mean (0 to 1) of the probabilities of the tokens and of the end."""
        return math.exp(self.log_probability / (len(self.tokens) + 1))


@dataclass(frozen=True)
class Prediction:
    """The captions of one image, best first, or the reason why there are none."""

    image: str
    captions: tuple[Caption, ...] = ()
    error: str | None = None

    @property
    def familiarity(self) -> float | None:
        """See `Caption`."""
        return self.captions[0].familiarity if self.captions else None


@dataclass(frozen=True)
class GenerationOptions:
    """How captions are generated: beam search with optional re-ranking, or sampling."""

    search: SearchOptions | SamplingOptions
    rerank: RerankOptions = NO_RERANKING


class BaseCaptioner(ABC):
    """A loaded model, whichever runtime computes it."""

    spec: EncoderSpec
    vocabulary: Vocabulary
    reranker: Reranker | None
    """None for a model that does not store its training captions."""
    familiarity: Familiarity | None
    """None for a model of few images or of an older version."""
    trained_on: Mapping[str, Scalar]
    """Facts about the training data, as the model file holds them."""
    batch_size = 16
    """Images per batch of `stream`."""

    def generation_options(
        self, *, neighbors: int | None = None, rerank_weight: float = 4.0, **search: Any
    ) -> GenerationOptions:
        """Options of beam search and re-ranking, with the model's defaults for those left out.

        By default a caption repeats no n-gram that the training captions seldom repeat, and is not longer than the
        longest one that the model was trained on. A model that stores its training captions re-ranks with 60 neighbors
        (unless it generates characters) and a beam of 10. `search` holds fields of `SearchOptions`. Raises
        `ParamsError` for an unknown option or an impossible value.
        """
        if neighbors is None:
            words = self.vocabulary.tokenizer != character_tokenizer.NAME
            neighbors = DEFAULT_NEIGHBORS if self.reranker is not None and words else 0
        search.setdefault("no_repeat_ngram", self.vocabulary.no_repeat_ngram)
        search.setdefault("max_length", self.vocabulary.max_length)
        if neighbors:
            search.setdefault("beam_size", RERANK_BEAM)
        rerank = _checked(RerankOptions, {"neighbors": neighbors, "weight": rerank_weight})
        return GenerationOptions(_checked(SearchOptions, search), rerank)

    def sampling_options(self, **options: Any) -> GenerationOptions:
        """Options of sampling, fields of `SamplingOptions`. Raises `ParamsError` as `generation_options` does."""
        options.setdefault("max_length", self.vocabulary.max_length)
        return GenerationOptions(_checked(SamplingOptions, options))

    @overload
    def __call__(self, image: "ImageInput", options: GenerationOptions | None = None) -> str: ...

    @overload
    def __call__(self, image: "list[AnyImage]", options: GenerationOptions | None = None) -> list[str]: ...

    def __call__(
        self, image: "ImageInput | list[AnyImage]", options: GenerationOptions | None = None
    ) -> str | list[str]:
        """The best caption of an image, or of each image of a list.

        An image is a path, the bytes of a file, a Pillow image, or a uint8 array (height, width) or (height, width, 3).
        Raises `DataError` for an image that cannot be used.
        """
        if isinstance(image, list):
            return [best.text for best, *_ in self.captions(image, options)]
        return self.captions([image], options)[0][0].text

    def captions(
        self,
        images: "Iterable[ImageInput]",
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """The best `captions` different captions of each image, best first; sampled ones may be equal, in any order.

        With `attention`, captions of decoders with attention include attention weights. Raises `DataError` for an
        image that cannot be used, `ParamsError` for more than 100 captions, the largest beam.
        """
        _check_several(images)
        remaining, found = iter(images), []
        while batch := list(islice(remaining, self.batch_size)):
            pixels = np.stack([self._pixels(image) for image in batch])
            found += self.caption_pixels(pixels, options, captions=captions, attention=attention)
        return found

    def preprocess(self, image: "Image.Image") -> Pixels:
        """The encoder's input (S, S, 3) from an upright RGB image."""
        return images.preprocess_image(image, self.spec.preprocessing)

    def caption_pixels(
        self,
        pixels: Pixels,
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """Like `captions`, from the encoder's input (B, S, S, 3). Raises `DataError` for another shape or type."""
        size = self.spec.preprocessing.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise DataError(
                f"pixels: {pixels.dtype} {pixels.shape}, expected uint8 (images, {size}, {size}, 3), as `preprocess` "
                "makes them"
            )
        if not len(pixels):
            return []
        return self.caption_features(self.encode(pixels), options, captions=captions, attention=attention)

    @abstractmethod
    def encode(self, pixels: Pixels) -> Features:
        """Features (B, R, C) of the encoder's input (B, S, S, 3)."""

    @abstractmethod
    def caption_features(
        self,
        features: Features,
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """Like `captions`, from features (B, R, C)."""

    def stream(
        self,
        images: "Iterable[ImageInput | tuple[str, ImageInput]]",
        options: GenerationOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Yield one `Prediction` per image, in order, as batches are done.

        `images` are images, or pairs of a name and an image. An image with neither a path nor a name is named after its
        number, from 1 on. Any number of images runs in the same memory: each is reduced to the encoder's input at once,
        and the next batch is decoded while one is captioned. With a `batch_size` of 1 each prediction is yielded before
        the next image is requested. An image that cannot be used gives a prediction with an error.
        """
        _check_several(images)
        size = batch_size or self.batch_size
        named = (one if isinstance(one, tuple) else (_name(one, number), one) for number, one in enumerate(images, 1))
        with ThreadPoolExecutor(min(size, os.cpu_count() or 1)) as pool:

            def batches() -> Iterator[list[tuple[str, Future[Pixels]]]]:
                while batch := list(islice(named, size)):
                    yield [(name, pool.submit(self._pixels, image)) for name, image in batch]

            try:
                # Pairs, so that the next batch is decoded while one is captioned.
                ahead = (batch for batch, _ in pairwise(chain(batches(), [[]])))
                for batch in ahead if size > 1 else batches():
                    yield from self._predictions(batch, options, captions, attention)
            finally:
                pool.shutdown(cancel_futures=True)

    def _options(self, options: GenerationOptions | None) -> GenerationOptions:
        """The options, by default those of `generation_options`. Raises `ParamsError` for another type."""
        if options is None:
            return self.generation_options()
        if not isinstance(options, GenerationOptions):
            raise ParamsError(
                f"options: {type(options).__name__}, not GenerationOptions; make them with generation_options(...) or "
                "sampling_options(...) of the captioner"
            )
        return options

    def _pixels(self, image: "ImageInput") -> Pixels:
        return self.preprocess(open_image(image, fill_truncated=self.spec.preprocessing.fill_truncated))

    def _predictions(
        self,
        batch: list[tuple[str, Future[Pixels]]],
        options: GenerationOptions | None,
        captions: int,
        attention: bool,
    ) -> Iterator[Prediction]:
        pixels = [future.result() for _, future in batch if not isinstance(future.exception(), DataError)]
        generated: Iterator[list[Caption]] = iter(())
        if pixels:
            generated = iter(self.caption_pixels(np.stack(pixels), options, captions=captions, attention=attention))
        for name, future in batch:
            error = future.exception()
            yield Prediction(name, error=str(error)) if error else Prediction(name, tuple(next(generated)))

    def _decoded(self, hypotheses: Sequence[Sequence[Hypothesis]], features: Features) -> list[list[Caption]]:
        """The captions of images with `features` (B, R, C): token ids to text."""
        shares = self.familiarity(features) if self.familiarity else [None] * len(hypotheses)
        return [
            [
                Caption(
                    text=self.vocabulary.decode(one.tokens),
                    tokens=tuple(self.vocabulary.tokens[token] for token in one.tokens),
                    score=one.score,
                    log_probability=one.log_probability,
                    attention=one.attention,
                    agreement=one.agreement,
                    familiarity=share,
                )
                for one in of_image
            ]
            for of_image, share in zip(hypotheses, shares, strict=True)
        ]


def _check_several(images: object) -> None:
    """Raise `DataError` for one image, whose rows or letters would be taken for images."""
    pixels = (
        isinstance(images, np.ndarray) and images.dtype == np.uint8 and (images.ndim < 3 or images.shape[2:] == (3,))
    )
    if pixels or isinstance(images, str | Path | bytes | Image.Image):
        raise DataError("images: one image, not a list of images; put it in a list: [image]")


def _name(image: "ImageInput", number: int) -> str:
    return str(image) if isinstance(image, str | Path) else str(number)


def open_image(image: "ImageInput", *, fill_truncated: bool = False) -> "Image.Image":
    """Upright RGB image; see `decode_image` for `fill_truncated`. Raises `DataError` naming the file, if it is one.

    Bytes that hold a second image are refused: it would be dropped without a word.
    """
    if isinstance(image, bytes):
        if holds_several_images(image):
            raise images.ImageError("holds more than one image; give one at a time")
        return images.decode_image(image, fill_truncated=fill_truncated)
    if not isinstance(image, str | Path):
        return images.to_rgb_image(image)
    try:
        return images.decode_image(read_image_bytes(image), fill_truncated=fill_truncated)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in a list of names
        raise DataError(f"{image}: cannot be read: {getattr(error, 'strerror', error)}") from error
    except images.ImageError as error:
        raise DataError(f"{image}: {error}") from error


_Options = TypeVar("_Options", SearchOptions, SamplingOptions, RerankOptions)


def _checked(kind: type[_Options], options: dict[str, Any]) -> _Options:
    known = inspect.signature(kind).parameters
    for name in options.keys() - set(known):
        raise ParamsError(f"{name}: unknown option; known: {', '.join(known)}")
    try:
        return kind(**options)
    except ValidationError as error:
        raise ParamsError(first_error(error)) from error
