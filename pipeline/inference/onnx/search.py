"""Beam search over arrays: what `decoders/search.py` does, for those who have no torch.

It is written a second time on purpose. The search of the decoders works on tensors of any device, and a shared one
would either move every step of a GPU through the host or import torch here, which is what this module is there to
avoid. A test holds the two to the same captions and scores.

B pictures, K beams, V tokens, R regions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAD, BOS, EOS, UNK = range(4)

Array = NDArray[Any]
State = Sequence[Array]
Step = Callable[[State, Array], tuple[Array, State, Array | None]]
"""From the state and tokens (B K,): log-probabilities (B K, V), the next state, and attention (B K, R) if there is."""


@dataclass(frozen=True)
class SearchOptions:
    """How to look for a caption; the same words as the decoders' `SearchOptions`, beam search only."""

    beam_size: int = 3
    max_length: int = 30
    """In tokens."""
    length_penalty: float = 0.7
    """A caption's log-probability is divided by its length to this power; 0 favours short captions."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens occurs twice in a caption; 0 allows all."""
    neighbours: int = 0
    """Of the captions found, the one that agrees best with what people said of so many training pictures alike; 0: the
    likeliest. The captioner looks to it, `beam_search` does not."""
    consensus: float = 4.0
    """The weight of that agreement (0 to 10) beside the score."""

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        least = min(self.length_penalty, self.no_repeat_ngram, self.neighbours, self.consensus)
        if min(self.beam_size, self.max_length) < 1 or least < 0:
            raise ValueError(
                "beam_size and max_length must be at least 1, length_penalty, no_repeat_ngram, neighbours and "
                "consensus not negative"
            )


@dataclass(frozen=True)
class Found:
    """A caption that the search found."""

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    attention: tuple[tuple[float, ...], ...] | None
    agreement: float | None = None


def beam_search(
    step: Step, state: State, search: SearchOptions, *, captions: int = 1, attention: bool = False
) -> list[list[Found]]:
    """The best captions of the pictures whose decoder has the first `state`; see `decoders/search.py`."""
    total = len(state[0])
    picture = np.arange(total)  # which picture each group of beams belongs to
    tokens = np.full((total, 1), BOS)  # (B, K) latest word
    scores = np.zeros((total, 1), np.float32)  # (B, K) log-probability so far
    words = np.empty((total, 1, 0), np.int64)  # (B, K, t)
    looks: Array | None = None  # (B, K, t, R)
    finished: list[list[Found]] = [[] for _ in range(total)]

    for length in range(1, search.max_length + 2):
        groups, beams = tokens.shape
        log_probs, state, look = step(state, tokens.reshape(-1))
        log_probs[:, [PAD, BOS, UNK]] = -np.inf
        _forbid_repetition(log_probs, words.reshape(groups * beams, -1), search.no_repeat_ngram)
        if length == search.max_length + 1:  # nothing may follow but the end
            ending = log_probs[:, EOS].copy()
            log_probs.fill(-np.inf)
            log_probs[:, EOS] = ending
        vocabulary = log_probs.shape[1]
        candidates = (scores[..., None] + log_probs.reshape(groups, beams, vocabulary)).reshape(groups, -1)
        best, place = _top(candidates, min(search.beam_size, candidates.shape[1]))  # (B, K)
        parent, token = place // vocabulary, place % vocabulary
        room = np.array([search.beam_size - len(finished[number]) for number in picture])
        best[np.arange(best.shape[1]) >= room[:, None]] = -np.inf
        ends = (token == EOS) & np.isfinite(best)
        unseen = () if attention and look is not None else None  # of a caption without words
        for row, column in np.argwhere(ends):
            beam, log_probability = parent[row, column], float(best[row, column])
            finished[picture[row]].append(
                Found(
                    tuple(words[row, beam].tolist()),
                    log_probability,
                    log_probability / length**search.length_penalty,
                    tuple(tuple(one) for one in looks[row, beam].tolist()) if looks is not None else unseen,
                )
            )
        best[ends] = -np.inf
        scores, tokens = best, token

        alive = _still_open(finished, picture, scores, captions, search)
        if not len(alive):
            break
        flat = (np.arange(groups)[:, None] * beams + parent)[alive].reshape(-1)
        state = [part[flat] for part in state]
        scores, tokens, parent, picture = scores[alive], tokens[alive], parent[alive], picture[alive]
        rows = np.arange(len(alive))[:, None]
        words = np.concatenate([words[alive][rows, parent], tokens[..., None]], -1)
        if attention and look is not None:
            current = look.reshape(groups, beams, -1)[alive][rows, parent][:, :, None]
            looks = current if looks is None else np.concatenate([looks[alive][rows, parent], current], 2)
    return [sorted(found, key=lambda one: -one.score)[:captions] for found in finished]


def _forbid_repetition(log_probs: Array, words: Array, size: int) -> None:
    """Rule out, in log_probs (B K, V), what would end a sequence of `size` words that are in words (B K, t) before."""
    said = words.shape[1]
    if not size or said < size:
        return
    windows = np.lib.stride_tricks.sliding_window_view(words, size, axis=1)  # (B K, t - size + 1, size)
    again = (windows[:, :, :-1] == words[:, None, said - size + 1 :]).all(-1)
    row, place = again.nonzero()
    log_probs[row, windows[row, place, -1]] = -np.inf


def _top(candidates: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of each row, the lower place first where they are equal."""
    places = np.sort(np.argpartition(-candidates, count - 1, axis=1)[:, :count], axis=1)
    values = np.take_along_axis(candidates, places, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)


def _still_open(
    finished: list[list[Found]], picture: Array, scores: Array, captions: int, search: SearchOptions
) -> NDArray[np.int64]:
    """The rows whose living beams might yet enter their picture's best `captions`."""
    bounds = scores.max(1) / (search.max_length + 1) ** search.length_penalty
    rows = []
    for row, (number, bound) in enumerate(zip(picture, bounds, strict=True)):
        done = sorted((one.score for one in finished[number]), reverse=True)
        if bound > -np.inf and (len(done) < captions or bound > done[captions - 1]):
            rows.append(row)
    return np.array(rows, np.int64)
