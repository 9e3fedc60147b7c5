"""Re-rank beam hypotheses by CIDEr-D against the captions of the k nearest training images.

J. Devlin et al., "Exploring Nearest Neighbor Approaches for Image Captioning", 2015 ("consensus caption"); J. Mao et
al., "Learning like a Child", ICCV 2015. The image vector is the decoder's, before the first token. One difference from
CIDEr-D: the weight of an n-gram is the mean idf of its tokens, so that one number per token is stored instead of one
per n-gram. The captions are equally good (docs/ablations.md).

This module works on numpy arrays, so that the torch and the ONNX runtime share it.

N training images, M captions of them, W tokens of these, H hidden size, V vocabulary, B images to caption,
K hypotheses of an image, R captions of its neighbors, G distinct n-grams of its hypotheses, P matching n-grams.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.limits import MAX_BEAM_SIZE
from pipeline.decoders.search import Hypothesis, SearchOptions
from pipeline.errors import ArtefactError, ParamsError
from pipeline.metrics.cider import ORDERS, extend_ngrams, join_ids, length_penalty, split_ids
from pipeline.options import RerankOptions

TEMPERATURE = 0.15
"""Of the softmax over cosine similarities that weights the neighbors."""

Array = NDArray[Any]
Search = Callable[[SearchOptions, int], list[list[Hypothesis]]]
"""Beam search: from its options to the given number of hypotheses of each image, best first."""

NO_RERANKING = RerankOptions()

_TYPES = {
    "vectors": (np.float16, 2),
    "mean": (np.float32, 1),
    "scale": (np.float32, 1),
    "tokens": (np.int32, 1),
    "caption_starts": (np.int64, 1),
    "image_starts": (np.int64, 1),
    "norms": (np.float32, 2),
    "idf": (np.float32, 1),
}
"""The dtype and the number of dimensions of each array."""


@dataclass(frozen=True)
class Reranker:
    """The training captions with the decoder's vectors of their images."""

    vectors: Array
    """(N, H) float16: normalized to zero mean, unit variance, then unit length."""
    mean: Array
    """(H,) float32: mean of the image vectors."""
    scale: Array
    """(H,) float32: one over their standard deviation."""
    tokens: Array
    """(W,) int32: the token ids of all captions, without begin and end."""
    caption_starts: Array
    """(M + 1,) int64: index in `tokens` of each caption's first token, and W."""
    image_starts: Array
    """(N + 1,) int64: index of each image's first caption, and M."""
    norms: Array
    """(M, 4) float32: norm of each caption's n-gram vector for n = 1 to 4."""
    idf: Array
    """(V,) float32: log of N over the number of images with the token in a caption."""

    @classmethod
    def build(cls, vectors: Array, captions: Sequence[Sequence[Sequence[int]]], *, vocabulary: int) -> Self:
        """From the image vectors (N, H) and the token ids of each image's captions."""
        vectors = np.asarray(vectors, np.float32)
        mean, deviation = vectors.mean(0), vectors.std(0)
        floor = deviation.mean() * 1e-3 + 1e-12  # a constant dimension is ignored
        scale = np.where(deviation > floor, 1 / np.maximum(deviation, floor), 0).astype(np.float32)
        flat = [caption for of_image in captions for caption in of_image]
        tokens = np.fromiter((token for caption in flat for token in caption), np.int32)
        caption_starts = np.cumsum([0, *map(len, flat)], dtype=np.int64)
        frequency = np.zeros(vocabulary, np.int64)
        for of_image in captions:
            frequency[list({token for caption in of_image for token in caption})] += 1
        idf = np.log(len(captions) / np.maximum(frequency, 1)).astype(np.float32)
        return cls(
            vectors=_unit_length((vectors - mean) * scale).astype(np.float16),
            mean=mean,
            scale=scale,
            tokens=tokens,
            caption_starts=caption_starts,
            image_starts=np.cumsum([0, *map(len, captions)], dtype=np.int64),
            norms=_caption_norms(tokens, caption_starts, idf),
            idf=idf,
        )

    def arrays(self) -> dict[str, Array]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], place: str, *, vocabulary: int, hidden: int) -> Self:
        """The inverse of `arrays`. Raises `ArtefactError` naming `place` when an array is missing, has another dtype
        or does not fit the others."""
        expected = {name: (np.dtype(dtype), dimensions) for name, (dtype, dimensions) in _TYPES.items()}
        found = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
        if found != expected or not (reranker := cls(**arrays))._is_consistent(vocabulary, hidden):
            raise ArtefactError(f"{place}: the arrays of the re-ranker are not those of this version; train again")
        return reranker

    def _is_consistent(self, vocabulary: int, hidden: int) -> bool:
        images, captions, tokens = len(self.vectors), len(self.norms), len(self.tokens)
        shapes = (
            self.vectors.shape == (images, hidden)
            and self.mean.shape == self.scale.shape == (hidden,)
            and self.caption_starts.shape == (captions + 1,)
            and self.image_starts.shape == (images + 1,)
            and self.norms.shape == (captions, ORDERS)
            and self.idf.shape == (vocabulary,)
        )
        return (
            shapes
            and images > 0
            and all(np.isfinite(array).all() for array in self.arrays().values() if array.dtype.kind == "f")
            and bool((self.norms >= 0).all())
            and _is_partition(self.image_starts, captions)
            and _is_partition(self.caption_starts, tokens)
            and bool(((self.tokens >= 0) & (self.tokens < vocabulary)).all())
        )

    def rerank(
        self, vectors: Array, hypotheses: Sequence[Sequence[Hypothesis]], options: RerankOptions
    ) -> list[list[Hypothesis]]:
        """The hypotheses of images with decoder vectors (B, H), each with its agreement, best first.

        The agreement of a hypothesis is its weighted mean CIDEr-D against the captions of the nearest training images.
        The order is by score + weight * agreement.
        """
        neighbors, weights = self._nearest(vectors, options.neighbors)
        reranked = []
        for candidates, images, shares in zip(hypotheses, neighbors, weights, strict=True):
            agreement = self._agreement([one.tokens for one in candidates], images, shares)
            judged = [replace(one, agreement=float(value)) for one, value in zip(candidates, agreement, strict=True)]
            order = np.argsort([-one.score for one in judged] - options.weight * agreement, kind="stable")
            reranked.append([judged[place] for place in order])
        return reranked

    def _nearest(self, vectors: Array, count: int) -> tuple[Array, Array]:
        """The nearest training images by cosine (B, k), nearest first, and their softmax weights (B, k)."""
        queries = _unit_length((np.asarray(vectors, np.float32) - self.mean) * self.scale)
        cosine = queries @ self._float_vectors.T  # (B, N)
        cosine, nearest = largest(cosine, min(count, cosine.shape[1]))
        weights = np.exp((cosine - cosine[:, :1]) / TEMPERATURE)
        return nearest, weights / weights.sum(1, keepdims=True)

    @cached_property
    def _float_vectors(self) -> Array:
        return self.vectors.astype(np.float32)

    def _agreement(self, hypotheses: Sequence[Sequence[int]], images: Array, shares: Array) -> Array:
        """The agreement (K,) of the hypotheses with the captions of `images` weighted by `shares`."""
        tokens, lengths, norms, weights = self._captions_of(images, shares)
        ours = np.fromiter((token for one in hypotheses for token in one), np.int64)
        our_lengths = np.array([len(one) for one in hypotheses], np.int64)
        penalty = weights[:, None] * length_penalty(lengths[:, None] - our_lengths)  # (R, K)
        total = np.zeros(len(hypotheses))
        our_ngrams, their_ngrams = _Ngrams.unigrams(ours, our_lengths), _Ngrams.unigrams(tokens, lengths)
        for order in range(1, ORDERS + 1):
            if order > 1:
                our_ngrams, their_ngrams = our_ngrams.extended(), their_ngrams.extended()
            keys, our_ngrams = our_ngrams.numbered()
            if not len(keys):
                break
            their_ngrams = their_ngrams.restricted_to(keys)
            weighted = our_ngrams.mean_idf(self.idf)
            vectors = np.zeros((len(hypotheses), len(keys)))  # (K, G) count times idf
            np.add.at(vectors, (our_ngrams.caption, our_ngrams.ngram), weighted)
            our_norms = np.sqrt((vectors**2).sum(1))
            caption, ngram, weight = their_ngrams.weighted_counts(self.idf)  # (P,)
            unit = _divide(weight, norms[caption, order - 1])
            products = np.minimum(vectors[:, ngram], weight) * unit * penalty[caption].T  # (K, P)
            total += _divide(products.sum(1), our_norms)
        return np.clip(10 * total / ORDERS, 0, 10)

    def _captions_of(self, images: Array, shares: Array) -> tuple[Array, Array, Array, Array]:
        """Of the R captions of `images`: all tokens, lengths (R,), norms (R, 4) and weights (R,)."""
        counts = self.image_starts[images + 1] - self.image_starts[images]
        rows = _ranges(self.image_starts[images], counts)
        lengths = self.caption_starts[rows + 1] - self.caption_starts[rows]
        tokens = self.tokens[_ranges(self.caption_starts[rows], lengths)].astype(np.int64)
        return tokens, lengths, self.norms[rows], np.repeat(shares / np.maximum(counts, 1), counts)


def search_and_rerank(
    search: Search,
    image_vectors: Callable[[], Array],
    reranker: Reranker | None,
    *,
    options: SearchOptions,
    rerank: RerankOptions,
    captions: int,
) -> list[list[Hypothesis]]:
    """The best `captions` hypotheses of each image, best first, from a beam of at least that size.

    `image_vectors` computes the decoder's vectors (B, H). Raises `ParamsError` when no beam can hold as many captions,
    and when re-ranking is asked for and the model does not store its training captions.
    """
    check_caption_count(captions)
    options = replace(options, beam_size=max(options.beam_size, captions))
    if not rerank.neighbors:
        return search(options, captions)
    if reranker is None:
        raise ParamsError(
            f"neighbors: {rerank.neighbors}, but this model does not store its training captions; use 0, or train "
            "with params.train.store_captions: true"
        )
    ranked = reranker.rerank(image_vectors(), search(options, options.beam_size), rerank)
    return [best[:captions] for best in ranked]


def check_caption_count(captions: int) -> None:
    """Raise `ParamsError` when no beam can hold as many captions per image."""
    if not 1 <= captions <= MAX_BEAM_SIZE:
        raise ParamsError(f"captions: {captions} per image; must be 1 to {MAX_BEAM_SIZE}, the largest beam size")


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest values of each row and their indices; of equal values the one of lower index comes first."""
    least = -np.partition(-values, count - 1, axis=1)[:, count - 1 : count]
    indices = np.stack([_largest_of_row(row, bound, count) for row, bound in zip(values, least, strict=True)])
    return np.take_along_axis(values, indices, 1), indices


def _largest_of_row(values: Array, least: Array, count: int) -> Array:
    candidates = np.flatnonzero(values >= least)
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


@dataclass(frozen=True)
class _Ngrams:
    """The n-grams of one order in some captions, one entry per occurrence."""

    order: int
    start: Array
    """Index of the first token in `tokens`."""
    ngram: Array
    """A number that identifies the n-gram."""
    tokens: Array
    """All tokens of all captions."""
    captions: Array
    """The caption of each token."""

    @classmethod
    def unigrams(cls, tokens: Array, lengths: Array) -> Self:
        """The tokens of captions with these lengths."""
        return cls(1, np.arange(len(tokens)), tokens, tokens, np.repeat(np.arange(len(lengths)), lengths))

    @property
    def caption(self) -> Array:
        """The caption of each occurrence."""
        caption: Array = self.captions[self.start]
        return caption

    def extended(self) -> "_Ngrams":
        """The occurrences that are followed by another token of the same caption, with that token."""
        start, ngram = extend_ngrams(self.start, self.ngram, self.order, self.captions, self.tokens)
        return replace(self, order=self.order + 1, start=start, ngram=ngram)

    def numbered(self) -> "tuple[Array, _Ngrams]":
        """The distinct n-grams in order, and the occurrences with indices among them."""
        keys, ngram = np.unique(self.ngram, return_inverse=True)
        return keys, replace(self, ngram=ngram)

    def restricted_to(self, keys: Array) -> "_Ngrams":
        """The occurrences of the n-grams `keys`, with indices among them."""
        place = np.minimum(np.searchsorted(keys, self.ngram), len(keys) - 1)
        kept = keys[place] == self.ngram
        return replace(self, start=self.start[kept], ngram=place[kept])

    def mean_idf(self, idf: Array) -> Array:
        """The mean idf of each occurrence's tokens."""
        total: Array = sum(idf[self.tokens[self.start + offset]].astype(np.float64) for offset in range(self.order))
        return total / self.order

    def weighted_counts(self, idf: Array) -> tuple[Array, Array, Array]:
        """The caption and number of each distinct n-gram of a caption, and its count times its mean idf."""
        pairs = join_ids(self.caption, self.ngram)
        pairs, first, count = np.unique(pairs, return_index=True, return_counts=True)
        return *split_ids(pairs), self.mean_idf(idf)[first] * count


def _caption_norms(tokens: Array, starts: Array, idf: Array) -> Array:
    """(M, 4) norms of the captions' n-gram vectors."""
    norms = np.zeros((len(starts) - 1, ORDERS), np.float32)
    ngrams = _Ngrams.unigrams(tokens.astype(np.int64), np.diff(starts))
    for column in range(ORDERS):
        _, ngrams = (ngrams.extended() if column else ngrams).numbered()
        caption, _, weight = ngrams.weighted_counts(idf)
        norms[:, column] = np.sqrt(np.bincount(caption, weight**2, len(norms)))
    return norms


def _unit_length(vectors: Array) -> Array:
    scaled: Array = vectors / np.maximum(np.sqrt((vectors**2).sum(1, keepdims=True)), 1e-12)
    return scaled


def _divide(values: Array, divisors: Array) -> Array:
    """0 where a divisor is 0."""
    return np.divide(values, divisors, out=np.zeros(len(values)), where=divisors > 0)


def _ranges(starts: Array, counts: Array) -> Array:
    """The integers of all ranges [start, start + count), one range after another."""
    ends = np.cumsum(counts)
    numbers: Array = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return numbers


def _is_partition(starts: Array, total: int) -> bool:
    """Whether `starts` divides `total` items into consecutive parts."""
    return bool(starts[0] == 0 and starts[-1] == total and (starts[1:] >= starts[:-1]).all())
