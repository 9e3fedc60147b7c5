"""Captions sampled from the decoder's distribution.

Shapes: B images, S samples per image, V vocabulary, T steps, R regions.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.decoders.decoder import Decoder, State
from pipeline.decoders.search import NEVER_GENERATED, Hypothesis, SamplingOptions, not_finite
from pipeline.tokens import BOS, EOS


class Samples(NamedTuple):
    """Sampled captions."""

    tokens: Tensor
    """(B S, T) each caption followed by at least one EOS."""
    log_probabilities: Tensor
    """(B S,) of each caption including its first EOS; not finite where the decoder's probabilities are not."""
    attention: list[Tensor]
    """Attention weights (B S, R) of each step; empty if not asked for or without attention."""


def sample(
    decoder: Decoder,
    features: Tensor,
    options: SamplingOptions,
    *,
    captions: int = 1,
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """Sample `captions` hypotheses for each image of `features` (B, R, C), in the order in which they were drawn.

    Random numbers come from a generator with `options.seed`. The decoder stays in its mode: call `eval()` before.
    Log-probabilities are the decoder's own, whatever the temperature. PAD, BOS and UNK are never generated. Raises
    `NumericError` when probabilities are not finite.
    """
    generator = torch.Generator(features.device).manual_seed(options.seed)
    noise = sampling_noise(decoder, len(features) * captions, options, generator)
    samples = sample_tokens(decoder, features, noise, options, captions=captions, attention=attention)
    if not bool(samples.log_probabilities.isfinite().all()):
        raise not_finite()
    found = _hypotheses(samples, options.length_penalty)
    return [found[start : start + captions] for start in range(0, len(found), captions)]


def sampling_noise(
    decoder: Decoder, rows: int, options: SamplingOptions, generator: torch.Generator
) -> Iterator[Tensor]:
    """Exponential random numbers (rows, V) for each step, drawn when it comes, on the device of `generator`."""
    for _ in range(options.max_length + 1):
        noise = torch.empty(rows, decoder.embedding.num_embeddings, device=generator.device)
        yield noise.exponential_(generator=generator)


@torch.no_grad()
def sample_tokens(
    decoder: Decoder,
    features: Tensor,
    noise: Iterable[Tensor],
    options: SamplingOptions,
    *,
    captions: int,
    attention: bool = False,
    early_stop: bool = True,
) -> Samples:
    """Sample `captions` captions for each image of `features` (B, R, C) with the `noise` (B S, V) of each step.

    The token with the largest ratio of probability to noise is a sample of the distribution, the same one as that of
    `torch.multinomial`. With `early_stop`, sampling ends when all captions have. Without, it takes all steps and reads
    no value from the device; the captions are the same.
    """
    rows = len(features) * captions
    state = decoder.start(features)
    state = State(state.image, tuple(part.repeat_interleave(captions, 0) for part in state.beam))  # (B S, ...)
    tokens = torch.full((rows,), BOS, device=features.device)
    total = torch.zeros(rows, device=features.device)  # (B S,) log-probability so far
    ended = torch.zeros(rows, dtype=torch.bool, device=features.device)
    drawn: list[Tensor] = []  # of each step, (B S,)
    weights: list[Tensor] = []  # of each step, (B S, R)
    for step, of_step in enumerate(noise):
        log_probs, state = decoder.step(state, tokens)
        for never in NEVER_GENERATED:  # a tuple as the index would be copied to the device at each step
            log_probs[:, never] = -torch.inf
        token = (_restrict(log_probs, options).softmax(-1) / of_step).argmax(1)
        if step == options.max_length:
            token = torch.full_like(token, EOS)
        total = total + log_probs.gather(1, token.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0)
        tokens = token.masked_fill(ended, EOS)
        ended = ended | (tokens == EOS)
        drawn.append(tokens)
        latest = decoder.attention_weights(state) if attention else None
        if latest is not None:
            weights.append(latest)
        if early_stop and bool(ended.all()):
            break
    return Samples(torch.stack(drawn, 1), total, weights)


def _restrict(log_probs: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (B S, V) at the temperature, -inf for tokens outside top-k and top-p."""
    logits = log_probs / max(options.temperature, 1e-6)
    if options.top_k:
        least = logits.topk(min(options.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if options.top_p < 1:
        ordered, index = logits.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        excluded = probabilities.cumsum(1) - probabilities >= options.top_p  # never the most likely token
        logits = logits.masked_fill(torch.zeros_like(excluded).scatter(1, index, excluded), -torch.inf)
    return logits


def _hypotheses(samples: Samples, length_penalty: float) -> list[Hypothesis]:
    tokens, log_probs, weights = samples
    attention = torch.stack(weights, 1).tolist() if weights else None  # (B S, T, R)
    found = []
    for row, (drawn, log_prob) in enumerate(zip(tokens.tolist(), log_probs.tolist(), strict=True)):
        caption = tuple(drawn[: drawn.index(EOS)])
        of_tokens = None if attention is None else tuple(map(tuple, attention[row][: len(caption)]))
        found.append(Hypothesis(caption, log_prob, log_prob / (len(caption) + 1) ** length_penalty, of_tokens))
    return found
