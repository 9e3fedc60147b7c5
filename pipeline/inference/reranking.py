"""Of the captions that a search found, the one that agrees best with what people said of pictures alike.

Reranker re-ranking (J. Devlin et al., "Exploring Nearest Neighbor Approaches for Image BaseCaptioner", 2015; J. Mao et
al., "Learning like a Child", ICCV 2015). Alike are the training pictures of which the decoder knows nearly the same,
and agreement is CIDEr-D with one change: an n-gram is as rare as its words are on average, so that a word's rarity is
all that has to be kept; with the n-grams' own the captions are as good (docs/training.md).

This module knows arrays only, so that every runtime can use it.

N training pictures, M captions of them, W words of these one after another, H width of what a decoder knows of a
picture, V tokens, B pictures to caption.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ArtefactError

ORDERS = 4
SIGMA = 6.0
"""Width of the penalty for another length, in tokens, as in CIDEr-D."""
WARMTH = 0.15
"""By how much the cosine of a neighbour falls while its weight falls to a third."""

Array = NDArray[Any]

_KINDS = {
    "vectors": (np.dtype(np.float16), 2),
    "mean": (np.dtype(np.float32), 1),
    "scale": (np.dtype(np.float32), 1),
    "words": (np.dtype(np.int32), 1),
    "captions": (np.dtype(np.int64), 1),
    "pictures": (np.dtype(np.int64), 1),
    "norms": (np.dtype(np.float32), 2),
    "rarity": (np.dtype(np.float32), 1),
}
"""The type and the number of dimensions of each part."""


class Hypothesis(Protocol):
    """A caption that a search found."""

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def score(self) -> float: ...

    @property
    def agreement(self) -> float | None: ...


Found = TypeVar("Found", bound=Hypothesis)


@dataclass(frozen=True)
class Reranker:
    """The training captions, and what a decoder knows of their pictures."""

    vectors: Array
    """(N, H) float16: standardised, of length 1."""
    mean: Array
    """(H,) float32."""
    scale: Array
    """(H,) float32: one over the deviation."""
    words: Array
    """(W,) int32: token numbers of all captions, without begin and end."""
    captions: Array
    """(M + 1,) int64: where in `words` each caption begins, and the last one ends."""
    pictures: Array
    """(N + 1,) int64: where in the captions those of each picture begin."""
    norms: Array
    """(M, 4) float32: of each caption's vector of n-grams, n from 1."""
    rarity: Array
    """(V,) float32: the logarithm of one over the share of the pictures that have the word in a caption."""

    @classmethod
    def store_captions(cls, known: Array, captions: Sequence[Sequence[Sequence[int]]], *, vocabulary: int) -> Self:
        """From what the decoder knows of each training picture (N, H), and the token numbers of its captions."""
        known = np.asarray(known, np.float32)
        mean, deviation = known.mean(0), known.std(0)
        floor = deviation.mean() * 1e-3 + 1e-12  # what is the same everywhere tells no picture from another
        scale = np.where(deviation > floor, 1 / np.maximum(deviation, floor), 0).astype(np.float32)
        every = [caption for of_picture in captions for caption in of_picture]
        words = np.fromiter((word for caption in every for word in caption), np.int32)
        starts = np.cumsum([0, *map(len, every)], dtype=np.int64)
        frequency = np.zeros(vocabulary, np.int64)
        for of_picture in captions:
            frequency[list({word for caption in of_picture for word in caption})] += 1
        rarity = np.log(len(captions) / np.maximum(frequency, 1)).astype(np.float32)
        return cls(
            vectors=_directions((known - mean) * scale).astype(np.float16),
            mean=mean,
            scale=scale,
            words=words,
            captions=starts,
            pictures=np.cumsum([0, *map(len, captions)], dtype=np.int64),
            norms=_norms(words, starts, rarity),
            rarity=rarity,
        )

    def arrays(self) -> dict[str, Array]:
        """Everything, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], place: str, *, vocabulary: int, width: int) -> Self:
        """What `arrays` gave, for a decoder that is so wide (H). Raises `ArtefactError` naming `place` when a part is
        missing, not of its type, or does not fit the others."""
        if {name: (array.dtype, array.ndim) for name, array in arrays.items()} != _KINDS:
            raise ArtefactError(f"{place}: not what a model remembers; train again")
        made = cls(**arrays)
        pictures, captions, words = len(made.vectors), len(made.norms), len(made.words)
        shapes = (
            made.vectors.shape == (pictures, width)
            and made.mean.shape == made.scale.shape == (width,)
            and made.captions.shape == (captions + 1,)
            and made.pictures.shape == (pictures + 1,)
            and made.norms.shape == (captions, ORDERS)
            and made.rarity.shape == (vocabulary,)
        )
        finite = all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
        if not (
            shapes
            and pictures
            and finite
            and bool((made.norms >= 0).all())
            and _parts(made.pictures, captions)
            and _parts(made.captions, words)
            and bool(((made.words >= 0) & (made.words < vocabulary)).all())
        ):
            raise ArtefactError(f"{place}: the parts of what the model remembers do not fit each other; train again")
        return made

    def ranked(
        self, known: Array, found: Sequence[Sequence[Found]], *, neighbours: int, weight: float
    ) -> list[list[Found]]:
        """The captions `found` for pictures of which the decoder knows `known` (B, H), best first, each with its
        agreement with what people said of so many `neighbours`: best is what has the highest score and `weight` times
        the agreement together.
        """
        near, alike = self._near(known, neighbours)
        answer = []
        for captions, pictures, shares in zip(found, near, alike, strict=True):
            agreement = self._agreement([one.tokens for one in captions], pictures, shares).tolist()
            judged = [replace(one, agreement=more) for one, more in zip(captions, agreement, strict=True)]  # type: ignore[type-var]
            answer.append(sorted(judged, key=lambda one: -one.score - weight * (one.agreement or 0.0)))
        return answer

    def _near(self, known: Array, neighbours: int) -> tuple[Array, Array]:
        """The training pictures most alike (B, K), nearest first, and the weight of each (B, K), 1 in all."""
        wanted = _directions((np.asarray(known, np.float32) - self.mean) * self.scale)
        cosine = wanted @ self._vectors.T  # (B, N)
        count = min(neighbours, cosine.shape[1])
        near = np.sort(np.argpartition(-cosine, count - 1, axis=1)[:, :count], axis=1)
        cosine = np.take_along_axis(cosine, near, 1)
        order = np.argsort(-cosine, axis=1, kind="stable")
        near, cosine = np.take_along_axis(near, order, 1), np.take_along_axis(cosine, order, 1)
        weights = np.exp((cosine - cosine[:, :1]) / WARMTH)
        return near, weights / weights.sum(1, keepdims=True)

    @cached_property
    def _vectors(self) -> Array:
        return self.vectors.astype(np.float32)

    def _agreement(self, candidates: Sequence[Sequence[int]], pictures: Array, shares: Array) -> Array:
        """Of each candidate (K,), between 0 and 10."""
        words, lengths, norms, weights = self._said_of(pictures, shares)
        said = np.fromiter((word for one in candidates for word in one), np.int64)
        sizes = np.array([len(one) for one in candidates], np.int64)
        # Only what some candidate says can agree: its words get small numbers, so that an n-gram is one of them too.
        spoken, local = np.unique(said, return_inverse=True)
        place = np.full(len(self.rarity), -1, np.int64)
        place[spoken] = np.arange(len(spoken))
        rarity = self.rarity[spoken].astype(np.float64)
        penalty = weights[:, None] * np.exp(-((lengths[:, None] - sizes) ** 2) / (2 * SIGMA**2))  # (R, K)
        total = np.zeros(len(candidates))
        both = zip(_grams(local, sizes, len(spoken)), _grams(place[words], lengths, len(spoken)), strict=True)
        for order, (ours, theirs) in enumerate(both):
            keys, ngram = np.unique(ours.key, return_inverse=True)
            if not len(keys):
                break
            weight = _means(ours, rarity)
            table = np.zeros((len(candidates), len(keys)))
            np.add.at(table, (ours.caption, ngram), weight)  # (K, G): how often a candidate says it, times its rarity
            norm = np.sqrt((table**2).sum(1))
            caption, gram, known = _counted(theirs, keys, rarity)
            divisor = norms[caption, order]
            unit = np.divide(known, divisor, out=np.zeros(len(known)), where=divisor > 0)
            shared = np.minimum(table[:, gram], known) * unit * penalty[caption].T  # (K, P)
            total += np.divide(shared.sum(1), norm, out=np.zeros(len(candidates)), where=norm > 0)
        return np.clip(10 * total / ORDERS, 0, 10)

    def _said_of(self, pictures: Array, shares: Array) -> tuple[Array, Array, Array, Array]:
        """The R captions of `pictures`: all their words, and of each its length, norms (R, 4) and weight."""
        counts = self.pictures[pictures + 1] - self.pictures[pictures]
        rows = _ranges(self.pictures[pictures], counts)
        lengths = self.captions[rows + 1] - self.captions[rows]
        words = self.words[_ranges(self.captions[rows], lengths)]
        return words, lengths, self.norms[rows], np.repeat(shares / np.maximum(counts, 1), counts)


@dataclass(frozen=True)
class _Order:
    """All n-grams of one n in some captions."""

    size: int
    caption: Array
    place: Array
    """Of the first word, among all words."""
    key: Array
    words: Array
    """All words."""


def _grams(words: Array, lengths: Array, different: int) -> Iterator[_Order]:
    """The n-grams of captions, n from 1 on, whose words have numbers from 0 to `different`; none has a word below 0.

    The keys are exact up to 55,000 different words; more would have to be very unlucky to give two n-grams one key.
    """
    caption = np.repeat(np.arange(len(lengths)), lengths)
    place = np.flatnonzero(words >= 0)
    key = words[place]
    yield _Order(1, caption[place], place, key, words)
    for size in range(2, ORDERS + 1):
        inside = place + size - 1 < len(words)
        place, key = place[inside], key[inside]
        last = place + size - 1
        inside = (caption[place] == caption[last]) & (words[last] >= 0)
        place, key = place[inside], key[inside] * different + words[last[inside]]
        yield _Order(size, caption[place], place, key, words)


def _means(order: _Order, rarity: Array) -> Array:
    """The mean rarity of each n-gram's words."""
    mean: Array = sum(rarity[order.words[order.place + offset]] for offset in range(order.size)) / order.size
    return mean


def _counted(theirs: _Order, keys: Array, rarity: Array) -> tuple[Array, Array, Array]:
    """Each caption and n-gram of `keys` in it, with its number there times its rarity."""
    at = np.minimum(np.searchsorted(keys, theirs.key), len(keys) - 1)
    same = keys[at] == theirs.key
    pair, first, count = np.unique(theirs.caption[same] * len(keys) + at[same], return_index=True, return_counts=True)
    weight = _means(theirs, rarity)[same][first]
    return pair // len(keys), pair % len(keys), weight * count


def _norms(words: Array, starts: Array, rarity: Array) -> Array:
    """(M, 4) of captions' vectors of n-grams."""
    norms = np.zeros((len(starts) - 1, ORDERS), np.float32)
    for place, order in enumerate(_grams(words.astype(np.int64), np.diff(starts), len(rarity))):
        kinds, kind = np.unique(order.key, return_inverse=True)
        _, first, count = np.unique(order.caption * len(kinds) + kind, return_index=True, return_counts=True)
        squares = (_means(order, rarity.astype(np.float64))[first] * count) ** 2
        norms[:, place] = np.sqrt(np.bincount(order.caption[first], squares, len(norms)))
    return norms


def _directions(vectors: Array) -> Array:
    """Of length 1."""
    length = np.sqrt((vectors**2).sum(1, keepdims=True))
    directions: Array = vectors / np.maximum(length, 1e-12)
    return directions


def _ranges(starts: Array, counts: Array) -> Array:
    """The numbers of all ranges, one after another."""
    ends = np.cumsum(counts)
    numbers: Array = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return numbers


def _parts(starts: Array, whole: int) -> bool:
    """Whether `starts` cuts so many things into parts, in order."""
    return bool(starts[0] == 0 and starts[-1] == whole and (starts[1:] >= starts[:-1]).all())
