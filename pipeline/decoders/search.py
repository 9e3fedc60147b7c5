"""From features to captions: beam search, batched over pictures and beams. A beam of one is greedy search.

B pictures, K beams, V tokens. Works on the decoder protocol alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.decoders.protocol import BOS, EOS, PAD, UNK, Decoder


@dataclass(frozen=True)
class Search:
    """How to look for a caption."""

    beam_size: int = 3
    max_length: int = 30
    """In tokens."""
    length_penalty: float = 0.7
    """A caption's log-probability is divided by its length to this power; 0 favours short captions."""


@dataclass(frozen=True)
class Hypothesis:
    """A caption that the search found."""

    tokens: tuple[int, ...]
    """Without begin and end."""
    log_probability: float
    """Of all its tokens and of ending there."""
    score: float
    """`log_probability` over the length to the power of the length penalty; the end counts as a token."""
    attention: tuple[tuple[float, ...], ...] | None = None
    """Where the decoder looked for each token, per region; None when not asked for or it does not look."""


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    features: Tensor,
    search: Search,
    *,
    captions: int = 1,
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """The best captions of pictures with `features` (B, R, C): for each `captions` of them (or as many as the beam
    found), best first.

    Of a picture's `beam_size` beams, each one that ends leaves its place empty, so that a beam of one is greedy
    search. Never emits padding, begin or unknown. A picture leaves the batch as soon as no living beam can still enter
    its best `captions`, which changes nothing but the time. Ties go to the earlier beam, then to the lower token.
    """
    beam_size, max_length, length_penalty = search.beam_size, search.max_length, search.length_penalty
    decoder.eval()
    device, total = features.device, features.shape[0]
    state = decoder.start(features)
    vocabulary = 0
    picture = torch.arange(total, device=device)  # which picture each group of beams belongs to
    tokens = torch.full((total, 1), BOS, device=device)  # (B, K) latest word
    scores = torch.zeros(total, 1, device=device)  # (B, K) log-probability so far
    words = torch.empty(total, 1, 0, dtype=torch.long, device=device)  # (B, K, t)
    looks: Tensor | None = None  # (B, K, t, R)
    finished: list[list[Hypothesis]] = [[] for _ in range(total)]

    for length in range(1, max_length + 2):
        beams = tokens.shape[1]
        log_probs, state = decoder.step(state, tokens.flatten())
        vocabulary = log_probs.shape[-1]
        log_probs[:, [PAD, BOS, UNK]] = -torch.inf
        if length == max_length + 1:  # nothing may follow but the end
            ending = log_probs[:, EOS].clone()
            log_probs.fill_(-torch.inf)
            log_probs[:, EOS] = ending
        look = decoder.attention_map(state) if attention else None
        candidates = (scores.unsqueeze(-1) + log_probs.view(-1, beams, vocabulary)).flatten(1)  # (B, K V)
        best, place = _top(candidates, min(beam_size, candidates.shape[1]))  # (B, K)
        parent, token = place // vocabulary, place % vocabulary
        room = torch.tensor([beam_size - len(finished[number]) for number in picture.tolist()], device=device)
        best = best.masked_fill(torch.arange(best.shape[1], device=device) >= room.unsqueeze(1), -torch.inf)
        ends = (token == EOS) & best.isfinite()
        for row, column in ends.nonzero().tolist():
            beam, log_probability = int(parent[row, column]), float(best[row, column])
            finished[int(picture[row])].append(
                Hypothesis(
                    tuple(words[row, beam].tolist()),
                    log_probability,
                    log_probability / length**length_penalty,
                    None if looks is None else tuple(tuple(step) for step in looks[row, beam].tolist()),
                )
            )
        scores, tokens = best.masked_fill(ends, -torch.inf), token

        alive = _still_open(finished, picture, scores, captions, max_length, length_penalty)
        if not len(alive):
            break
        flat = (torch.arange(len(picture), device=device).unsqueeze(1) * beams + parent)[alive].flatten()
        state = tuple(part[flat] for part in state)
        scores, tokens, parent, picture = scores[alive], tokens[alive], parent[alive], picture[alive]
        words = torch.cat([_beams(words[alive], parent), tokens.unsqueeze(-1)], -1)
        if look is not None:
            current = look.view(-1, beams, look.shape[-1])[alive]
            current = _beams(current, parent).unsqueeze(2)
            looks = current if looks is None else torch.cat([_beams(looks[alive], parent), current], 2)
    return [sorted(found, key=lambda one: -one.score)[:captions] for found in finished]


def _top(candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, the lower place first where they are equal (`topk` promises no order)."""
    values, places = candidates.topk(count, dim=1)
    places, by_place = places.sort(1)
    values, by_value = values.gather(1, by_place).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)


def _beams(values: Tensor, parent: Tensor) -> Tensor:
    """values (B, K, ...) reordered by parent (B, K')."""
    index = parent.view(*parent.shape, *[1] * (values.dim() - 2)).expand(*parent.shape, *values.shape[2:])
    return values.gather(1, index)


def _still_open(
    finished: list[list[Hypothesis]],
    picture: Tensor,
    scores: Tensor,
    captions: int,
    max_length: int,
    length_penalty: float,
) -> Tensor:
    """The rows whose living beams might yet enter their picture's best `captions`.

    A log-probability only falls, and is divided by at most the greatest length: a bound for every continuation.
    """
    bounds = (scores.max(1).values / (max_length + 1) ** length_penalty).tolist()
    rows = []
    for row, (number, bound) in enumerate(zip(picture.tolist(), bounds, strict=True)):
        done = sorted((one.score for one in finished[number]), reverse=True)
        if bound > float("-inf") and (len(done) < captions or bound > done[captions - 1]):
            rows.append(row)
    return torch.tensor(rows, dtype=torch.long, device=picture.device)
