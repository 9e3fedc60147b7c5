"""Beam search on numpy arrays: the algorithm of `decoders/beam_search.py` for a runtime without torch.

It exists twice on purpose: the torch search keeps its tensors on the decoder's device, and this module must not import
torch. A test holds both to the same hypotheses and scores. Options and results are the same classes.

Shapes: B images in the batch, K beams per image, V vocabulary, R regions, t tokens so far.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.search import NEVER_GENERATED, Hypothesis, SearchOptions, not_finite
from pipeline.inference.reranking import largest
from pipeline.tokens import BOS, EOS

Array = NDArray[Any]
State = Sequence[Array]
Step = Callable[[State, Array], tuple[Array, State, Array | None]]
"""From the state and tokens (B K,): log-probabilities (B K, V), the next state, attention weights (B K, R) or None."""


def beam_search(
    step: Step, state: State, options: SearchOptions, *, captions: int = 1, attention: bool = False
) -> list[list[Hypothesis]]:
    """The best `captions` hypotheses of each image, best first, from the decoder's first state.

    Raises `NumericError` when no probability is finite.
    """
    beams = _Beams(state, options, captions)
    for _ in range(options.max_length + 1):  # the last step can only generate EOS
        log_probs, following, weights = step(beams.state, beams.tokens.reshape(-1))
        beams.extend(log_probs, following, weights if attention else None)
        if not len(beams.image):
            break
    if not all(beams.finished):
        raise not_finite()
    return [sorted(of_image, key=lambda one: -one.score)[:captions] for of_image in beams.finished]


class _Beams:
    """The living hypotheses of the images that are still in the batch, and the finished ones of all images."""

    def __init__(self, state: State, options: SearchOptions, captions: int) -> None:
        batch = len(state[0])
        self.options = options
        self.wanted = captions
        self.state = state
        self.image = np.arange(batch)  # (B,) index of each image in `finished`
        self.tokens = np.full((batch, 1), BOS)  # (B, K) latest token
        self.log_probs = np.zeros((batch, 1), np.float32)  # (B, K) of each hypothesis
        self.captions = np.empty((batch, 1, 0), np.int64)  # (B, K, t)
        self.attention: Array | None = None  # (B, K, t, R)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(batch)]

    def extend(self, log_probs: Array, state: State, weights: Array | None) -> None:
        """Append the best next tokens, given their log-probabilities (B K, V) and the step's attention weights."""
        batch, beams = self.tokens.shape
        vocabulary = log_probs.shape[1]
        _forbid(log_probs, self.captions.reshape(batch * beams, -1), self.options)
        candidates = self.log_probs[..., None] + log_probs.reshape(batch, beams, vocabulary)
        flat = candidates.reshape(batch, -1)
        total, index = largest(flat, min(self.options.beam_size, flat.shape[1]))  # (B, K)
        parent, token = index // vocabulary, index % vocabulary
        room = np.array([self.options.beam_size - len(self.finished[image]) for image in self.image])
        total[np.arange(total.shape[1]) >= room[:, None]] = -np.inf
        ends = (token == EOS) & np.isfinite(total)
        self._finish(ends, parent, total, weights is not None)
        total[ends] = -np.inf
        self._keep(total, parent, token, state, weights)

    def _finish(self, ends: Array, parent: Array, total: Array, attention: bool) -> None:
        """Add the hypotheses `ends` (B, K) of log-probability `total` (B, K) to the finished ones."""
        length = self.captions.shape[2] + 1
        for row, column in np.argwhere(ends):
            beam, log_probability = parent[row, column], float(total[row, column])
            weights: tuple[tuple[float, ...], ...] | None = () if attention else None
            if self.attention is not None:
                weights = tuple(map(tuple, self.attention[row, beam].tolist()))
            score = log_probability / length**self.options.length_penalty
            caption = tuple(self.captions[row, beam].tolist())
            self.finished[self.image[row]].append(Hypothesis(caption, log_probability, score, weights))

    def _keep(self, total: Array, parent: Array, token: Array, state: State, weights: Array | None) -> None:
        """Continue the hypotheses `parent` (B, K) with `token` (B, K), of the images whose result can still change."""
        batch, beams = self.tokens.shape
        alive = self._alive(total)
        parent = parent[alive]
        flat = (alive[:, None] * beams + parent).reshape(-1)  # (B' K,)
        self.state = [part[flat] for part in state]
        self.tokens, self.log_probs, self.image = token[alive], total[alive], self.image[alive]
        rows = np.arange(len(alive))[:, None]
        self.captions = np.concatenate([self.captions[alive][rows, parent], self.tokens[..., None]], 2)
        if weights is not None:
            latest = weights.reshape(batch, beams, -1)[alive][rows, parent][:, :, None]  # (B', K, 1, R)
            before = [] if self.attention is None else [self.attention[alive][rows, parent]]
            self.attention = np.concatenate([*before, latest], 2)

    def _alive(self, total: Array) -> Array:
        """The rows of images of which a living hypothesis can still enter the best ones."""
        # A log-probability only falls and is divided by at most the greatest length: a bound on all continuations.
        bounds = total.max(1) / (self.options.max_length + 1) ** self.options.length_penalty
        alive = []
        for row, (image, bound) in enumerate(zip(self.image, bounds, strict=True)):
            scores = sorted((one.score for one in self.finished[image]), reverse=True)
            if bound > -np.inf and (len(scores) < self.wanted or bound > scores[self.wanted - 1]):
                alive.append(row)
        return np.array(alive, np.int64)


def _forbid(log_probs: Array, captions: Array, options: SearchOptions) -> None:
    """Set log-probabilities (B K, V) to -inf where a token must not follow the captions (B K, t)."""
    log_probs[:, NEVER_GENERATED] = -np.inf
    length, size = captions.shape[1], options.no_repeat_ngram
    if length == options.max_length:  # only EOS may follow
        log_probs[:, :EOS] = log_probs[:, EOS + 1 :] = -np.inf
    elif size and length >= size:
        ngrams = np.lib.stride_tricks.sliding_window_view(captions, size, axis=1)  # (B K, t - size + 1, size)
        repeated = (ngrams[:, :, :-1] == captions[:, None, length - size + 1 :]).all(-1)
        row, place = repeated.nonzero()
        log_probs[row, ngrams[row, place, -1]] = -np.inf
