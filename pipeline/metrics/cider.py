"""CIDEr-D (Vedantam et al. 2015): n-grams shared with the references, weighted by tf-idf; equal to coco-caption.

Document frequencies come from the references themselves, so a score belongs to its set: score a split as a whole. A
single image scores 0.

    H hypotheses, N images, R references of all images together, G distinct n-grams of one order,
    P postings: pairs of a reference and an n-gram in it
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.metric import Floats, mean_metric

ORDERS = 4
SIGMA = 6.0
"""Standard deviation of the length penalty, in tokens."""

Ints = NDArray[np.int64]


def length_penalty(difference: NDArray[np.number]) -> Floats:
    """The Gaussian penalty for captions that are this many tokens longer or shorter than their reference."""
    penalty: Floats = np.exp(-(difference.astype(np.float64) ** 2) / (2 * SIGMA**2))
    return penalty


@dataclass(frozen=True)
class _ReferenceNgrams:
    """The references' n-grams of one order with their tf-idf weights, sorted by image and n-gram."""

    keys: Ints  # (G,) sorted: the number of the n-gram without its last word, joined with that word
    idf: Floats  # (G + 1,) the last one is for n-grams that no reference has
    posting: Ints  # (P,) sorted: image joined with n-gram
    reference: Ints  # (P,)
    weight: Floats  # (P,)
    unit_weight: Floats  # (P,) the weight divided by the norm of its reference's vector


class CiderD:
    """CIDEr-D against fixed references, which are counted and weighted once.

    `references` holds the captions of each image, (N,) with one to many each.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._reference_counts = np.array([len(captions) for captions in references])  # (N,)
        image = np.repeat(np.arange(len(references)), self._reference_counts)  # (R,)
        self._words: dict[str, int] = {}
        tokens = [caption.split() for captions in references for caption in captions]
        words = np.array([self._words.setdefault(w, len(self._words)) for c in tokens for w in c], np.int64)
        self._lengths = np.array([len(caption) for caption in tokens], np.int64)  # (R,)
        self._log_images = float(np.log(len(references)))
        self._orders: list[_ReferenceNgrams] = []
        caption = np.repeat(np.arange(len(tokens)), self._lengths)
        start, ngram = np.arange(len(words)), np.zeros(len(words), np.int64)
        for order in range(ORDERS):
            start, ngram = extend_ngrams(start, ngram, order, caption, words)
            keys, ngram = np.unique(ngram, return_inverse=True)
            self._orders.append(self._weighted(keys, caption[start], ngram, image))

    def score(self, hypotheses: Sequence[str]) -> Floats:
        """CIDEr-D of each image, (N,) between 0 and 10; the score of the set is their mean.

        Raises `ValueError` unless there is one hypothesis per image.
        """
        return self.score_many(np.arange(len(self._reference_counts)), hypotheses)

    def score_many(self, indices: Sequence[int] | Ints, hypotheses: Sequence[str]) -> Floats:
        """CIDEr-D of hypotheses for the images `indices`, (H,), which may repeat and come in any order.

        Document frequencies stay those of all references. Raises `ValueError` unless there is one index per hypothesis.
        """
        images = np.asarray(indices, np.int64)
        if len(hypotheses) != len(images):
            raise ValueError(f"expected one hypothesis per image, got {len(hypotheses)} for {len(images)} images")
        tokens = [caption.split() for caption in hypotheses]
        unknown: dict[str, int] = defaultdict(count(len(self._words)).__next__)
        words = np.array([self._words[w] if w in self._words else unknown[w] for c in tokens for w in c], np.int64)
        lengths = np.array([len(caption) for caption in tokens], np.int64)  # (H,)
        caption = np.repeat(np.arange(len(tokens)), lengths)
        start, ngram = np.arange(len(words)), np.zeros(len(words), np.int64)
        total = np.zeros(len(tokens))  # (H,)
        for number, order in enumerate(self._orders):
            start, ngram = extend_ngrams(start, ngram, number, caption, words)
            ngram = _numbered(ngram, order.keys)
            total += self._similarity(order, caption[start], ngram, images=images, lengths=lengths)
        scores: Floats = 10 * total / ORDERS / self._reference_counts[images]
        return scores

    def _weighted(self, keys: Ints, caption: Ints, ngram: Ints, image: Ints) -> _ReferenceNgrams:
        """The references' n-grams of one order, from the caption of each n-gram and its number in `keys`."""
        frequency = np.bincount(split_ids(np.unique(join_ids(image[caption], ngram)))[1], minlength=len(keys))
        idf = self._log_images - np.log(np.append(frequency, 1))
        reference, ngram, weight, norm = _vectors(caption, ngram, idf, len(image))
        kept = weight > 0  # an n-gram of every image has weight 0, and then its reference's norm may be 0
        reference, ngram, weight = reference[kept], ngram[kept], weight[kept]
        posting = join_ids(image[reference], ngram)
        order = np.argsort(posting, kind="stable")
        reference, weight = reference[order], weight[order]
        return _ReferenceNgrams(keys, idf, posting[order], reference, weight, weight / norm[reference])

    def _similarity(
        self,
        order: _ReferenceNgrams,
        caption: Ints,
        ngram: Ints,
        *,
        images: Ints,
        lengths: Ints,
    ) -> Floats:
        """Clipped and length-penalized cosine with each reference of the image, summed over them, (H,)."""
        hypothesis, ngram, weight, norm = _vectors(caption, ngram, order.idf, len(images))
        wanted = join_ids(images[hypothesis], ngram)
        first, past = (np.searchsorted(order.posting, wanted, side) for side in ("left", "right"))
        found = past - first  # the number of the image's references that have the n-gram
        entry = np.repeat(np.arange(len(wanted)), found)
        posting = np.arange(len(entry)) + np.repeat(first - np.cumsum(found) + found, found)
        hypothesis, weight = hypothesis[entry], weight[entry]
        penalty = length_penalty(lengths[hypothesis] - self._lengths[order.reference[posting]])
        shared = np.minimum(weight, order.weight[posting]) * order.unit_weight[posting] * penalty
        products = np.bincount(hypothesis, shared, len(images))
        return np.divide(products, norm, out=np.zeros(len(images)), where=norm > 0)


CIDER_D = mean_metric(lambda hypotheses, references: CiderD(references).score(hypotheses))


def extend_ngrams(start: Ints, ngram: Ints, order: int, caption: Ints, words: Ints) -> tuple[Ints, Ints]:
    """Each n-gram joined with the word `order` positions after its start, where the caption still has one."""
    inside = start + order < len(words)
    start, ngram = start[inside], ngram[inside]
    inside = caption[start] == caption[start + order]
    start, ngram = start[inside], ngram[inside]
    return start, join_ids(ngram, words[start + order])


def _numbered(ngram: Ints, keys: Ints) -> Ints:
    """The index of each n-gram in the sorted `keys`; unknown n-grams are numbered after them."""
    number = np.searchsorted(keys, ngram)
    missing = np.append(keys, -1)[number] != ngram
    number[missing] = len(keys) + np.unique(ngram[missing], return_inverse=True)[1]
    return number


def _vectors(caption: Ints, ngram: Ints, idf: Floats, captions: int) -> tuple[Ints, Ints, Floats, Floats]:
    """tf-idf vectors as (caption, n-gram, weight) for every n-gram that occurs, and the norms (captions,)."""
    occurring, frequency = np.unique(join_ids(caption, ngram), return_counts=True)
    caption, ngram = split_ids(occurring)
    weight = frequency * idf[np.minimum(ngram, len(idf) - 1)]
    return caption, ngram, weight, np.sqrt(np.bincount(caption, weight**2, captions))


def join_ids(high: Ints, low: Ints) -> Ints:
    """Two numbers below 2**31 in one, which sorts like the pair."""
    return high << 32 | low


def split_ids(joined: Ints) -> tuple[Ints, Ints]:
    return joined >> 32, joined & 0xFFFFFFFF
