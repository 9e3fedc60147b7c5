"""CIDEr-D (Vedantam et al. 2015): n-grams shared with the references, weighted by rarity; as coco-caption.

Document frequencies come from the references themselves, so a score belongs to its set: score a split whole.
One picture alone scores 0.

    H hypotheses, N pictures, R references of all pictures together, G distinct n-grams of one order,
    P pairs of a reference and an n-gram in it
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.input_checks import check_lengths, check_references

ORDERS = 4
SIGMA = 6.0
"""Width of the penalty for another length than the reference's, in tokens."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """The references' n-grams of one order, each with its tf-idf weight, sorted by picture and n-gram."""

    keys: Ints  # (G,) sorted: the n-gram without its last word, and that word
    idf: Floats  # (G + 1,) the last is that of every n-gram no reference has
    posted: Ints  # (P,) sorted: picture and n-gram
    reference: Ints  # (P,)
    weight: Floats  # (P,)
    unit: Floats  # (P,) the weight over the norm of its reference's vector


class CiderD:
    """CIDEr-D against fixed references, which are counted and weighted once.

    `references` holds the captions of each picture, (N,) with one to many each. Raises `ValueError` when
    there are no pictures or one has no reference.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        check_references(references)
        self._references_of = np.array([len(captions) for captions in references])  # (N,)
        picture = np.repeat(np.arange(len(references)), self._references_of)  # (R,)
        self._words: dict[str, int] = {}
        tokens = [caption.split() for captions in references for caption in captions]
        words = np.array([self._words.setdefault(w, len(self._words)) for c in tokens for w in c], np.int64)
        self._lengths = np.array([len(caption) for caption in tokens], np.int64)  # (R,)
        self._rarest = float(np.log(len(references)))
        self._orders: list[_Order] = []
        caption = np.repeat(np.arange(len(tokens)), self._lengths)
        place, ngram = np.arange(len(words)), np.zeros(len(words), np.int64)
        for order in range(ORDERS):
            place, ngram = _longer(place, ngram, order, caption, words)
            keys, ngram = np.unique(ngram, return_inverse=True)
            self._orders.append(self._weighted(keys, caption[place], ngram, picture))

    def score(self, hypotheses: Sequence[str]) -> Floats:
        """CIDEr-D of each picture, (N,) between 0 and 10; the score of the set is their mean.

        Raises `ValueError` unless there is one hypothesis per picture.
        """
        check_lengths(len(hypotheses), len(self._references_of))
        return self.score_many(np.arange(len(hypotheses)), hypotheses)

    def score_many(self, indices: Sequence[int] | Ints, hypotheses: Sequence[str]) -> Floats:
        """CIDEr-D of hypotheses for the pictures `indices`, (H,): any of them, in any order, also repeatedly.

        Document frequencies stay those of all references. Raises `ValueError` unless there is one index per
        hypothesis and each is that of a picture.
        """
        pictures = np.asarray(indices, np.int64)
        check_lengths(len(hypotheses), len(pictures))
        if pictures.size and not 0 <= pictures.min() <= pictures.max() < len(self._references_of):
            raise ValueError(f"`indices` must be in [0, {len(self._references_of)}), got {pictures.tolist()}")
        tokens = [caption.split() for caption in hypotheses]
        unknown: dict[str, int] = {}
        words = np.array([self._number(word, unknown) for caption in tokens for word in caption], np.int64)
        lengths = np.array([len(caption) for caption in tokens], np.int64)  # (H,)
        caption = np.repeat(np.arange(len(tokens)), lengths)
        place, ngram = np.arange(len(words)), np.zeros(len(words), np.int64)
        total = np.zeros(len(tokens))  # (H,)
        for number, order in enumerate(self._orders):
            place, ngram = _longer(place, ngram, number, caption, words)
            ngram = _numbered(ngram, order.keys)
            total += self._similarity(order, caption[place], ngram, pictures=pictures, lengths=lengths)
        scores: Floats = 10 * total / ORDERS / self._references_of[pictures]
        return scores

    def _weighted(self, keys: Ints, caption: Ints, ngram: Ints, picture: Ints) -> _Order:
        """One order of the references, from each n-gram's caption and number in `keys`."""
        frequency = np.bincount(_split(np.unique(_joined(picture[caption], ngram)))[1], minlength=len(keys))
        idf = self._rarest - np.log(np.append(frequency, 1))
        reference, ngram, weight, norm = _vectors(caption, ngram, idf, len(picture))
        kept = weight > 0  # an n-gram of every picture weighs nothing, and its reference's norm may be 0
        reference, ngram, weight = reference[kept], ngram[kept], weight[kept]
        posted = _joined(picture[reference], ngram)
        order = np.argsort(posted, kind="stable")
        reference, weight = reference[order], weight[order]
        return _Order(keys, idf, posted[order], reference, weight, weight / norm[reference])

    def _number(self, word: str, unknown: dict[str, int]) -> int:
        known = self._words.get(word)
        return unknown.setdefault(word, len(self._words) + len(unknown)) if known is None else known

    def _similarity(
        self,
        order: _Order,
        caption: Ints,
        ngram: Ints,
        *,
        pictures: Ints,
        lengths: Ints,
    ) -> Floats:
        """Clipped and length-penalised cosine with each reference of the picture, summed over them, (H,)."""
        hypothesis, ngram, weight, norm = _vectors(caption, ngram, order.idf, len(pictures))
        wanted = _joined(pictures[hypothesis], ngram)
        first, past = (np.searchsorted(order.posted, wanted, side) for side in ("left", "right"))
        found = past - first  # how many references of the picture have the n-gram
        entry = np.repeat(np.arange(len(wanted)), found)
        posting = np.arange(len(entry)) + np.repeat(first - np.cumsum(found) + found, found)
        hypothesis, weight = hypothesis[entry], weight[entry]
        longer = lengths[hypothesis] - self._lengths[order.reference[posting]]
        penalty = np.exp(-(longer**2) / (2 * SIGMA**2))
        shared = np.minimum(weight, order.weight[posting]) * order.unit[posting] * penalty
        products = np.bincount(hypothesis, shared, len(pictures))
        return np.divide(products, norm, out=np.zeros(len(pictures)), where=norm > 0)


def _longer(place: Ints, ngram: Ints, order: int, caption: Ints, words: Ints) -> tuple[Ints, Ints]:
    """Each n-gram joined with the word `order` places after its start, where the caption still has one."""
    inside = place + order < len(words)
    place, ngram = place[inside], ngram[inside]
    inside = caption[place] == caption[place + order]
    place, ngram = place[inside], ngram[inside]
    return place, _joined(ngram, words[place + order])


def _numbered(ngram: Ints, keys: Ints) -> Ints:
    """The place of each n-gram in the sorted `keys`; those not there get numbers of their own after them."""
    number = np.searchsorted(keys, ngram)
    missing = np.append(keys, -1)[number] != ngram
    number[missing] = len(keys) + np.unique(ngram[missing], return_inverse=True)[1]
    return number


def _vectors(caption: Ints, ngram: Ints, idf: Floats, captions: int) -> tuple[Ints, Ints, Floats, Floats]:
    """tf-idf vectors as (caption, n-gram, weight) for every n-gram that occurs, and the norms (captions,)."""
    occurring, frequency = np.unique(_joined(caption, ngram), return_counts=True)
    caption, ngram = _split(occurring)
    weight = frequency * idf[np.minimum(ngram, len(idf) - 1)]
    return caption, ngram, weight, np.sqrt(np.bincount(caption, weight**2, captions))


def _joined(high: Ints, low: Ints) -> Ints:
    """Two numbers below 2**31 in one, which sorts as the pair does."""
    return high << 32 | low


def _split(joined: Ints) -> tuple[Ints, Ints]:
    return joined >> 32, joined & 0xFFFFFFFF
