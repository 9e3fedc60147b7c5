"""Captions sampled from the decoder's distribution.

Shapes: B images, S samples per image, V vocabulary, T steps, R regions.
"""

import torch
from torch import Tensor

from pipeline.decoders.decoder import Decoder, State
from pipeline.decoders.search import NEVER_GENERATED, Hypothesis, SamplingOptions, not_finite
from pipeline.tokens import BOS, EOS


@torch.no_grad()
def sample(
    decoder: Decoder,
    features: Tensor,
    options: SamplingOptions,
    *,
    captions: int = 1,
    attention: bool = False,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Sample `captions` hypotheses for each image of `features` (B, R, C), in the order in which they were drawn.

    Random numbers come from `generator`, by default a new one with `options.seed`. The decoder stays in its mode: call
    `eval()` before. Log-probabilities are the decoder's own, whatever the temperature. PAD, BOS and UNK are never
    generated. Raises `NumericError` when probabilities are not finite.
    """
    if generator is None:
        generator = torch.Generator(features.device).manual_seed(options.seed)
    rows = len(features) * captions
    state = decoder.start(features)
    state = State(state.image, tuple(part.repeat_interleave(captions, 0) for part in state.beam))  # (B S, ...)
    tokens = torch.full((rows,), BOS, device=features.device)
    total = torch.zeros(rows, device=features.device)  # (B S,) log-probability so far
    ended = torch.zeros(rows, dtype=torch.bool, device=features.device)
    drawn: list[Tensor] = []  # of each step, (B S,)
    weights: list[Tensor] = []  # of each step, (B S, R)
    for step in range(options.max_length + 1):
        log_probs, state = decoder.step(state, tokens)
        if bool(log_probs.isnan().any()):  # `multinomial` would raise an error of its own, on a GPU for good
            raise not_finite()
        log_probs[:, NEVER_GENERATED] = -torch.inf
        token = torch.multinomial(_restrict(log_probs, options).softmax(-1), 1, generator=generator).squeeze(1)
        if step == options.max_length:
            token = torch.full_like(token, EOS)
        total = total + log_probs.gather(1, token.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0)
        tokens = token.masked_fill(ended, EOS)
        ended = ended | (tokens == EOS)
        drawn.append(tokens)
        latest = decoder.attention_weights(state) if attention else None
        if latest is not None:
            weights.append(latest)
        if bool(ended.all()):
            break
    found = _hypotheses(torch.stack(drawn, 1), total, weights, options.length_penalty)
    return [found[start : start + captions] for start in range(0, len(found), captions)]


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


def _hypotheses(drawn: Tensor, total: Tensor, weights: list[Tensor], length_penalty: float) -> list[Hypothesis]:
    """From tokens (B S, T), each caption followed by EOS, log-probabilities (B S,) and T attention weights (B S, R)."""
    attention = torch.stack(weights, 1).tolist() if weights else None  # (B S, T, R)
    found = []
    for row, (tokens, log_prob) in enumerate(zip(drawn.tolist(), total.tolist(), strict=True)):
        caption = tuple(tokens[: tokens.index(EOS)])
        of_tokens = None if attention is None else tuple(map(tuple, attention[row][: len(caption)]))
        found.append(Hypothesis(caption, log_prob, log_prob / (len(caption) + 1) ** length_penalty, of_tokens))
    return found
