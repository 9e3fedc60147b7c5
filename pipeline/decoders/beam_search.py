"""Beam search for captions, batched over images and beams.

Shapes: B images in the batch, K beams per image, V vocabulary, R regions, t tokens so far.
"""

import torch
from torch import Tensor

from pipeline.decoders.decoder import Decoder, State
from pipeline.decoders.search import NEVER_GENERATED, Hypothesis, SearchOptions, not_finite
from pipeline.tokens import BOS, EOS

TIES = 16
"""Number of values equal to the last one of the beam that are ranked without sorting all (bfloat16 has many)."""


@torch.inference_mode()
def beam_search(
    decoder: Decoder, features: Tensor, options: SearchOptions, *, captions: int = 1, attention: bool = False
) -> list[list[Hypothesis]]:
    """The best `captions` hypotheses (or as many as the beam found) of each image of `features` (B, R, C), best first.

    With `attention`, hypotheses include the attention weights of each token. PAD, BOS and UNK are never generated. A
    beam that ends leaves its place empty, so that beam size 1 is greedy search. Equal scores are ranked by beam, then
    by token. An image leaves the batch as soon as no living beam can enter its best `captions`; this saves time and
    changes no result. Raises `NumericError` when no probability is finite.
    """
    decoder.eval()
    with torch.autocast(features.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        beams = _Beams(decoder.start(features), features, options, captions)
        for _ in range(options.max_length + 1):  # the last step can only generate EOS
            log_probs, state = decoder.step(beams.state, beams.tokens.flatten())
            weights = decoder.attention_weights(state) if attention else None
            beams.extend(log_probs, state, weights)
            if not len(beams.image):
                break
    if not all(beams.finished):
        raise not_finite()
    return [sorted(of_image, key=lambda one: -one.score)[:captions] for of_image in beams.finished]


class _Beams:
    """The living hypotheses of the images that are still in the batch, and the finished ones of all images."""

    def __init__(self, state: State, features: Tensor, options: SearchOptions, captions: int) -> None:
        batch, device = features.shape[0], features.device
        self.options = options
        self.state = state
        self.image = torch.arange(batch, device=device)  # (B,) index of each image in `finished`
        self.room = torch.full((batch,), options.beam_size, device=device)  # (B,) beams that have not ended
        self.best = torch.full((batch, captions), -torch.inf, device=device)  # (B, captions) best finished scores
        self.tokens = torch.full((batch, 1), BOS, device=device)  # (B, K) latest token
        self.log_probs = torch.zeros(batch, 1, device=device)  # (B, K) of each hypothesis
        self.captions = torch.empty(batch, 1, 0, dtype=torch.long, device=device)  # (B, K, t)
        self.attention: Tensor | None = None  # (B, K, t, R)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(batch)]

    def extend(self, log_probs: Tensor, state: State, weights: Tensor | None) -> None:
        """Append the best next tokens, given their log-probabilities (B K, V) and the step's attention weights."""
        options, beams, vocabulary = self.options, self.tokens.shape[1], log_probs.shape[1]
        _forbid(log_probs, self.captions.flatten(0, 1), options)
        candidates = log_probs.view(-1, beams, vocabulary).add_(self.log_probs.unsqueeze(2)).flatten(1)  # (B, K V)
        total, index = _top(candidates, min(options.beam_size, candidates.shape[1]))  # (B, K)
        parent, token = index // vocabulary, index % vocabulary
        total = total.masked_fill(
            torch.arange(total.shape[1], device=total.device) >= self.room.unsqueeze(1), -torch.inf
        )
        ends = (token == EOS) & total.isfinite()
        if ends.any():
            self._finish(ends, parent, total, weights is not None)
        self._keep(total.masked_fill(ends, -torch.inf), parent, token, state, weights)

    def _finish(self, ends: Tensor, parent: Tensor, total: Tensor, attention: bool) -> None:
        """Add the hypotheses `ends` (B, K) of log-probability `total` (B, K) to the finished ones."""
        length = self.captions.shape[2] + 1
        score = total / length**self.options.length_penalty
        row, column = ends.nonzero(as_tuple=True)
        beam = parent[row, column]
        images, captions = self.image[row].tolist(), self.captions[row, beam].tolist()
        log_probs, scores = total[row, column].tolist(), score[row, column].tolist()
        if self.attention is not None:
            weights = self.attention[row, beam].tolist()
        else:
            weights = [() if attention else None] * len(images)
        for n, image in enumerate(images):
            of_tokens = None if weights[n] is None else tuple(map(tuple, weights[n]))
            self.finished[image].append(Hypothesis(tuple(captions[n]), log_probs[n], scores[n], of_tokens))
        self.room = self.room - ends.sum(1)
        scores_and_best = torch.cat([self.best, score.masked_fill(~ends, -torch.inf)], 1)
        self.best = scores_and_best.topk(self.best.shape[1], dim=1).values

    def _keep(self, total: Tensor, parent: Tensor, token: Tensor, state: State, weights: Tensor | None) -> None:
        """Continue the hypotheses `parent` (B, K) with `token` (B, K), of the images whose result can still change."""
        options, beams = self.options, self.tokens.shape[1]
        # A log-probability only falls and is divided by at most the greatest length: a bound on all continuations.
        bound = total.max(1).values / (options.max_length + 1) ** options.length_penalty
        alive = ((bound > self.best[:, -1]) & bound.isfinite()).nonzero().squeeze(1)  # (B',)
        parent = parent[alive]
        self.state = _select(state, alive, parent, beams)
        self.tokens, self.log_probs = token[alive], total[alive]
        self.image, self.room, self.best = self.image[alive], self.room[alive], self.best[alive]
        self.captions = torch.cat([_gather(self.captions[alive], parent), self.tokens.unsqueeze(2)], 2)
        if weights is not None:
            latest = _gather(weights.unflatten(0, (-1, beams))[alive], parent).unsqueeze(2)  # (B', K, 1, R)
            before = [] if self.attention is None else [_gather(self.attention[alive], parent)]
            self.attention = torch.cat([*before, latest], 2)


def _forbid(log_probs: Tensor, captions: Tensor, options: SearchOptions) -> None:
    """Set log-probabilities (B K, V) to -inf where a token must not follow the captions (B K, t)."""
    log_probs[:, NEVER_GENERATED] = -torch.inf
    length, size = captions.shape[1], options.no_repeat_ngram
    if length == options.max_length:  # only EOS may follow
        log_probs[:, :EOS] = log_probs[:, EOS + 1 :] = -torch.inf
    elif size and length >= size:
        ngrams = captions.unfold(1, size, 1)  # (B K, t - size + 1, size)
        repeated = (ngrams[:, :, :-1] == captions[:, None, length - size + 1 :]).all(-1)
        row, place = repeated.nonzero(as_tuple=True)
        log_probs[row, ngrams[row, place, -1]] = -torch.inf


def _top(candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row and their indices; of equal values the one of lower index comes first.

    `topk` alone may take any of several equal values, in any order.
    """
    width = min(count + TIES, candidates.shape[1])
    values, indices = candidates.topk(width, dim=1)
    tied = (values[:, count - 1] == values[:, -1]) & values[:, -1].isfinite()  # there may be more equal values
    if width < candidates.shape[1] and tied.any():
        ordered, order = candidates[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = ordered[:, :width], order[:, :width]
    indices, order = indices.sort(1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values[:, :count], indices.gather(1, order)[:, :count]


def _select(state: State, alive: Tensor, parent: Tensor, beams: int) -> State:
    """The state of the images `alive` (B',), with beams reordered by `parent` (B', K)."""
    image = state.image
    if image and len(alive) < len(image[0]):
        image = tuple(part[alive] for part in image)
    flat = (alive.unsqueeze(1) * beams + parent).flatten()  # (B' K,)
    return State(image, tuple(part[flat] for part in state.beam))


def _gather(values: Tensor, parent: Tensor) -> Tensor:
    """values (B, K, ...) reordered along K by `parent` (B, K')."""
    index = parent.view(*parent.shape, *[1] * (values.dim() - 2)).expand(*parent.shape, *values.shape[2:])
    return values.gather(1, index)
