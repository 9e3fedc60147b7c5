"""Pictures in, captions out, whatever computes them: what torch's captioner and ONNX Runtime's have in common.

This module does not import torch.

B pictures, S input side of the encoder, R regions.
"""

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.archives import read_image_bytes
from pipeline.encoders import images
from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.errors import DataError, ParamsError
from pipeline.inference.reranking import Hypothesis as Ranked
from pipeline.inference.reranking import Reranker
from pipeline.text import character_tokenizer as characters
from pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | bytes | NDArray[np.uint8] | Image.Image

NEIGHBOURS = 60
"""Training pictures alike that are asked, where the model remembers them: as docs/training.md measured it."""
CANDIDATES = 10
"""The search's width then: what a search does not find, nobody can agree with."""

SearchOptions = TypeVar("SearchOptions")
One = TypeVar("One", bound="Picture")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Caption:
    """What was said of one picture."""

    text: str
    words: tuple[str, ...]
    """The decoder's tokens; characters where those are its unit."""
    score: float
    """Log-probability over the length to the power of the length penalty; nearer to zero is surer."""
    log_probability: float
    attention: tuple[tuple[float, ...], ...] | None = None
    """For each word, how much the decoder looked at each of the `grid` x `grid` regions, by rows; sums to 1."""
    agreement: float | None = None
    """With what people said of the training pictures most alike, 0 to 10, which decides together with the score; None
    where nobody is asked."""

    @property
    def certainty(self) -> float:
        """The mean probability (geometric, 0 to 1) that the model gave each word and the end."""
        return math.exp(self.log_probability / (len(self.words) + 1))


@dataclass(frozen=True)
class Answer:
    """One picture's captions, best first, or why there are none."""

    image: str
    captions: tuple[Caption, ...] = ()
    error: str | None = None


class Hypothesis(Ranked, Protocol):
    """A caption as the search of a runtime gives it."""

    @property
    def log_probability(self) -> float: ...

    @property
    def attention(self) -> tuple[tuple[float, ...], ...] | None: ...


class BaseCaptioner(ABC, Generic[SearchOptions]):
    """A loaded model, in whichever runtime."""

    spec: EncoderSpec
    vocabulary: Vocabulary
    consensus: Reranker | None
    """What people said of the training pictures, where the model remembers it."""
    search_options: type[SearchOptions]
    instead = ""
    """What to say of an option that is not there."""
    batch_size = 16
    """Pictures that `answers` takes at a time."""

    def make_search(self, **options: Any) -> SearchOptions:
        """How to look for captions; unless told otherwise, without repeating what people do not repeat, and by
        consensus where the model remembers its training captions and speaks in words (characters agree too easily).

        Raises `ParamsError` for an option that this runtime does not have, or a value that cannot be.
        """
        options.setdefault("no_repeat_ngram", self.vocabulary.no_repeat_ngram)
        asked = self.consensus is not None and self.vocabulary.tokenizer != characters.NAME
        if options.setdefault("neighbours", NEIGHBOURS if asked else 0):
            options.setdefault("beam_size", CANDIDATES)
            options.setdefault("length_penalty", 1.0)
        known = {field.name for field in fields(self.search_options)}  # type: ignore[arg-type]
        for name in options.keys() - known:
            raise ParamsError(f"{name}: no option of this search, which has {', '.join(sorted(known))}{self.instead}")
        try:
            return self.search_options(**options)
        except ValueError as error:
            raise ParamsError(str(error)) from error

    def _told(self, found: Sequence[Sequence[Hypothesis]]) -> list[list[Caption]]:
        """The captions of each picture, in words."""
        tokens, decode = self.vocabulary.tokens, self.vocabulary.decode
        return [
            [
                Caption(
                    text=decode(one.tokens),
                    words=tuple(tokens[number] for number in one.tokens),
                    score=one.score,
                    log_probability=one.log_probability,
                    attention=one.attention,
                    agreement=one.agreement,
                )
                for one in several
            ]
            for several in found
        ]

    def make_sampling(self, **options: Any) -> SearchOptions:
        """How to draw captions at random. Raises `ParamsError` where the runtime cannot."""
        raise ParamsError("--sample: the onnx runtime does not draw at random; use --runtime torch")

    @overload
    def __call__(self, picture: "Picture", search: SearchOptions | None = None) -> str: ...

    @overload
    def __call__(self, picture: "list[One]", search: SearchOptions | None = None) -> list[str]: ...

    def __call__(self, picture: "Picture | list[One]", search: SearchOptions | None = None) -> str | list[str]:
        """The best caption of a picture, or of each of a list of them.

        A picture is a path, a file's bytes, a Pillow picture or uint8 pixels (H, W) or (H, W, 3).
        Raises `DataError` for a bad one.
        """
        if isinstance(picture, list):
            return [best.text for best, *_ in self.captions(picture, search)]
        return self.captions([picture], search)[0][0].text

    def captions(
        self,
        pictures: "Sequence[Picture]",
        search: SearchOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
    ) -> list[list[Caption]]:
        """The best `captions` different captions of each picture, best first, with where the decoder looked when
        `attention` is asked for and the decoder looks. Raises `DataError` for a bad picture."""
        if not pictures:
            return []
        pixels = np.stack([self.pixels(picture) for picture in pictures])
        return self.describe(pixels, search, captions=captions, attention=attention)

    def pixels(self, picture: "Picture") -> Pixels:
        """The encoder's input (S, S, 3). Raises `DataError` naming the file, if it is one."""
        return self.prepare(open_image(picture))

    @abstractmethod
    def prepare(self, picture: "Image.Image") -> Pixels:
        """The encoder's input (S, S, 3) from an upright RGB picture."""

    @abstractmethod
    def describe(
        self, pixels: Pixels, search: SearchOptions | None = None, *, captions: int = 1, attention: bool = False
    ) -> list[list[Caption]]:
        """As `captions`, from the encoder's input (B, S, S, 3)."""

    def answers(
        self,
        pictures: "Iterable[str | Path | tuple[str, Picture]]",
        search: SearchOptions | None = None,
        *,
        captions: int = 1,
        attention: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[Answer]:
        """One answer per picture, in order, as batches are done; a bad picture is an answer too.

        Pictures are paths, or pairs of a name and a picture. They are taken as they are needed and shrunk to the
        encoder's input at once, so that any number of them runs in the same memory. While a batch is captioned, the
        next one is decoded; with a `batch_size` of 1 each answer comes before the next picture is asked for.
        """
        size = batch_size or self.batch_size
        named = iter(pictures)
        with ThreadPoolExecutor(min(size, os.cpu_count() or 1)) as pool:

            def batches() -> Iterator[list[tuple[str, Future[Pixels]]]]:
                while batch := list(islice(named, size)):
                    pairs = [one if isinstance(one, tuple) else (os.fspath(one), one) for one in batch]
                    yield [(name, pool.submit(self.pixels, picture)) for name, picture in pairs]

            try:
                for decoding in _one_ahead(batches()) if size > 1 else batches():
                    yield from self._answer(decoding, search, captions, attention)
            finally:
                pool.shutdown(cancel_futures=True)

    def _answer(
        self, decoding: "list[tuple[str, Future[Pixels]]]", search: SearchOptions | None, captions: int, attention: bool
    ) -> Iterator[Answer]:
        pixels: list[Pixels] = []
        errors: list[str | None] = []
        for _, future in decoding:
            try:
                pixels.append(future.result())
                errors.append(None)
            except DataError as bad:
                errors.append(str(bad))
        found = iter(self.describe(np.stack(pixels), search, captions=captions, attention=attention) if pixels else [])
        for (name, _), error in zip(decoding, errors, strict=True):
            yield Answer(name, error=error) if error else Answer(name, tuple(next(found)))


def open_image(picture: "Picture") -> "Image.Image":
    """Upright RGB. Raises `DataError` naming the file, if it is one."""
    if not isinstance(picture, str | Path):
        return images.to_rgb_image(picture)
    path = Path(picture)
    try:
        return images.decode(read_image_bytes(picture))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL character in a list of names
        raise DataError(f"{path!s}: cannot be read: {error}") from error
    except images.ImageError as error:
        raise DataError(f"{path}: {error}") from error


def part_seen(transform: Preprocessing, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what the encoder sees of an upright picture, as shares of its sides (0 to 1).

    The whole of it, or the centre that is cut out.
    """
    if transform.shorter_side is None:
        return 0.0, 0.0, 1.0, 1.0
    side = min(width, height) * transform.size / transform.shorter_side
    across, down = min(side / width, 1.0), min(side / height, 1.0)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


_Batch = TypeVar("_Batch")


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same, with the next one begun before each is given out."""
    begun: deque[_Batch] = deque()
    for batch in batches:
        begun.append(batch)
        if len(begun) > 1:
            yield begun.popleft()
    yield from begun
