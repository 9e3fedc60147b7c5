"""From features to captions: beam search and sampling, batched over pictures and beams. A beam of one is greedy search.

B pictures, K beams, V tokens. Works on the decoder protocol alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.decoders.decoder import BOS, EOS, PAD, UNK, Decoder, State


@dataclass(frozen=True)
class SearchOptions:
    """How to look for a caption."""

    beam_size: int = 3
    max_length: int = 30
    """In tokens."""
    length_penalty: float = 0.7
    """A caption's log-probability is divided by its length to this power; 0 favours short captions."""
    min_length: int = 0
    """In tokens."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens occurs twice in a caption (R. Paulus et al., 2018); 0 allows all."""
    precision: str = "float32"
    """What matrix products are computed in; "bfloat16" is faster where the processor has it, and changes captions."""
    neighbours: int = 0
    """Of the captions found, the one that agrees best with what people said of so many training pictures alike; 0: the
    likeliest. `TrainedModel.search` looks to it, `beam_search` does not."""
    consensus: float = 4.0
    """The weight of that agreement (0 to 10) beside the score."""

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        if min(self.beam_size, self.max_length) < 1:
            raise ValueError(f"beam_size {self.beam_size}, max_length {self.max_length}: both must be at least 1")
        if min(self.length_penalty, self.min_length, self.no_repeat_ngram, self.neighbours, self.consensus) < 0:
            raise ValueError(
                "length_penalty, min_length, no_repeat_ngram, neighbours and consensus must not be negative"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is more than max_length {self.max_length}")


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw captions at random, each word from the decoder's own distribution."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 the likely words become likelier."""
    top_k: int = 0
    """Only the so many likeliest words; 0 allows all."""
    top_p: float = 1.0
    """Only the likeliest words that together have this probability (A. Holtzman et al., 2020)."""
    max_length: int = 30
    seed: int = 0
    length_penalty: float = 0.7
    """For the score that is told of a caption; what is drawn does not depend on it."""

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        if self.max_length < 1:
            raise ValueError(f"max_length {self.max_length}: must be at least 1")
        if not self.temperature > 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: the temperature must be "
                "above 0, top_k not negative, top_p above 0 and at most 1"
            )


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
    agreement: float | None = None
    """With what people said of pictures alike, 0 to 10; None when nobody was asked."""


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    features: Tensor,
    search: SearchOptions,
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
    with torch.autocast(features.device.type, torch.bfloat16, enabled=search.precision == "bfloat16"):
        return _search(decoder, features, search, captions, attention)


def _search(
    decoder: Decoder, features: Tensor, search: SearchOptions, captions: int, attention: bool
) -> list[list[Hypothesis]]:
    decoder.eval()
    device, total = features.device, features.shape[0]
    state = decoder.start(features)
    picture = torch.arange(total, device=device)  # (B,) which picture each group of beams belongs to
    room = torch.full((total,), search.beam_size, device=device)  # (B,) beams that have not ended
    worst = torch.full((total, captions), -torch.inf, device=device)  # (B, captions) the best finished scores
    tokens = torch.full((total, 1), BOS, device=device)  # (B, K) latest word
    scores = torch.zeros(total, 1, device=device)  # (B, K) log-probability so far
    words = torch.empty(total, 1, 0, dtype=torch.long, device=device)  # (B, K, t)
    looks: Tensor | None = None  # (B, K, t, R)
    finished: list[list[Hypothesis]] = [[] for _ in range(total)]

    for length in range(1, search.max_length + 2):
        beams = tokens.shape[1]
        log_probs, state = decoder.step(state, tokens.flatten())
        vocabulary = log_probs.shape[-1]
        _forbid(log_probs, words.flatten(0, 1), search)
        look = decoder.attention_weights(state) if attention else None
        candidates = log_probs.view(-1, beams, vocabulary).add_(scores.unsqueeze(-1)).flatten(1)  # (B, K V)
        best, place = _top(candidates, min(search.beam_size, candidates.shape[1]))  # (B, K)
        parent, tokens = place // vocabulary, place % vocabulary
        best = best.masked_fill(torch.arange(best.shape[1], device=device) >= room.unsqueeze(1), -torch.inf)
        ends = (tokens == EOS) & best.isfinite()
        if ends.any():
            normalised = best / length**search.length_penalty
            rows, columns = ends.nonzero(as_tuple=True)
            beam = parent[rows, columns]
            for number, caption, log_probability, score, seen in zip(
                picture[rows].tolist(),
                words[rows, beam].tolist(),
                best[rows, columns].tolist(),
                normalised[rows, columns].tolist(),
                [None if look is None else ()] * len(rows) if looks is None else looks[rows, beam].tolist(),
                strict=True,
            ):
                where = None if seen is None else tuple(map(tuple, seen))
                finished[number].append(Hypothesis(tuple(caption), log_probability, score, where))
            room = room - ends.sum(1)
            worst = torch.cat([worst, normalised.masked_fill(~ends, -torch.inf)], 1).topk(captions, dim=1).values
        scores = best.masked_fill(ends, -torch.inf)

        # A log-probability only falls, and is divided by at most the greatest length: a bound for every continuation.
        bound = scores.max(1).values / (search.max_length + 1) ** search.length_penalty
        alive = ((bound > worst[:, -1]) & bound.isfinite()).nonzero().squeeze(1)
        if not len(alive):
            break
        parent, tokens, scores = parent[alive], tokens[alive], scores[alive]
        state = _kept(state, alive, parent, beams)
        if len(alive) < len(picture):
            picture, room, worst, words = picture[alive], room[alive], worst[alive], words[alive]
            looks = None if looks is None else looks[alive]
        words = torch.cat([_beams(words, parent), tokens.unsqueeze(-1)], -1)
        if look is not None:
            current = _beams(look.unflatten(0, (-1, beams))[alive], parent).unsqueeze(2)
            looks = current if looks is None else torch.cat([_beams(looks, parent), current], 2)
    return [sorted(found, key=lambda one: -one.score)[:captions] for found in finished]


@torch.no_grad()
def sample(
    decoder: Decoder,
    features: Tensor,
    sampling: SamplingOptions,
    *,
    captions: int = 1,
    attention: bool = False,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """`captions` random captions for each of `features` (B, R, C), in the order in which they were drawn.

    The same seed draws the same captions; a `generator` of the caller's takes the seed's place. The probabilities told
    are the decoder's own, whatever the temperature.
    """
    if generator is None:
        generator = torch.Generator(features.device).manual_seed(sampling.seed)
    total = len(features)
    state = decoder.start(features)
    state = State(state.picture, tuple(part.repeat_interleave(captions, 0) for part in state.beam))
    tokens = torch.full((total * captions,), BOS, device=features.device)
    looks: list[Tensor] = []  # of each step, (B captions, R)
    words, said = [], torch.zeros(total * captions, device=features.device)
    ended = torch.zeros(total * captions, dtype=torch.bool, device=features.device)
    for length in range(1, sampling.max_length + 2):
        log_probs, state = decoder.step(state, tokens)
        look = decoder.attention_weights(state) if attention else None
        if look is not None:
            looks.append(look)
        log_probs[:, [PAD, BOS, UNK]] = -torch.inf
        chosen = torch.multinomial(_narrowed(log_probs, sampling).softmax(-1), 1, generator=generator).squeeze(1)
        if length == sampling.max_length + 1:
            chosen = torch.full_like(chosen, EOS)
        said = said + log_probs.gather(1, chosen.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0)
        tokens = chosen.masked_fill(ended, EOS)
        ended = ended | (tokens == EOS)
        words.append(tokens)
        if bool(ended.all()):
            break
    drawn = [tuple(caption[: caption.index(EOS)]) for caption in torch.stack(words, 1).tolist()]
    seen = torch.stack(looks, 1).tolist() if looks else [None] * len(drawn)
    found = [
        Hypothesis(
            caption,
            log_probability,
            log_probability / (len(caption) + 1) ** sampling.length_penalty,
            None if where is None else tuple(map(tuple, where[: len(caption)])),
        )
        for caption, log_probability, where in zip(drawn, said.tolist(), seen, strict=True)
    ]
    return [found[start : start + captions] for start in range(0, len(found), captions)]


def _narrowed(log_probs: Tensor, sampling: SamplingOptions) -> Tensor:
    """Log-probabilities (B, V) at the temperature, with the words outside top-k and top-p ruled out."""
    logits = log_probs / max(sampling.temperature, 1e-6)
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, place = logits.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(1) - probabilities  # the likeliest word always stays
        beyond = before >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, place, beyond), -torch.inf)
    return logits


def _forbid(log_probs: Tensor, words: Tensor, search: SearchOptions) -> None:
    """Rule out, in log_probs (B K, V), what must not follow words (B K, t)."""
    log_probs[:, [PAD, BOS, UNK]] = -torch.inf
    said, ending = words.shape[1], log_probs[:, EOS].clone()
    if said < search.min_length:
        log_probs[:, EOS] = -torch.inf
    size = search.no_repeat_ngram
    if size and said >= size:
        windows = words.unfold(1, size, 1)  # (B K, t - size + 1, size)
        again = (windows[:, :, :-1] == words[:, None, said - size + 1 :]).all(-1)
        row, place = again.nonzero(as_tuple=True)
        log_probs[row, windows[row, place, -1]] = -torch.inf
    if said == search.max_length:  # nothing may follow but the end
        log_probs.fill_(-torch.inf)
        log_probs[:, EOS] = ending
    elif said < search.min_length:  # and the least length gives way where no word is left
        log_probs[:, EOS] = ending.masked_fill(log_probs.isfinite().any(1), -torch.inf)


def _kept(state: State, alive: Tensor, parent: Tensor, beams: int) -> State:
    """The state of the pictures `alive`, their beams reordered by `parent` (len(alive), K)."""
    flat = (alive.unsqueeze(1) * beams + parent).flatten()
    picture = state.picture
    if picture and len(alive) < len(picture[0]):
        picture = tuple(part[alive] for part in picture)
    return State(picture, tuple(part[flat] for part in state.beam))


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
