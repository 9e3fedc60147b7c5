"""What decides when training stops: how good the captions are that are generated for pictures it does not learn from.

The teacher-forced loss goes on falling after the captions have become worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.decoders import Decoder
from pipeline.decoders.beam_search import SearchOptions, beam_search
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches

LONGEST = 240
"""Tokens of a caption that is generated while training: one absurd reference must not make every epoch wait."""


@dataclass(frozen=True)
class Validation:
    """Pictures whose captions decide when to stop."""

    features: Tensor
    """(N, R, C) float16."""
    references: Sequence[Sequence[str]]
    """Tokenised, joined by spaces."""
    batches: Batches
    """The same captions as token numbers: how surprising they are is told beside the score, and decides nothing."""

    def longest(self, vocabulary: Vocabulary) -> int:
        """How many tokens a generated caption may have."""
        most = max(len(reference.split()) for references in self.references for reference in references)
        return min(LONGEST, 2 * most if " " in vocabulary.tokens else most)  # spaces are no tokens to the metrics


def greedy_captions(
    decoder: Decoder, features: Tensor, vocabulary: Vocabulary, max_length: int, device: torch.device
) -> list[str]:
    """One caption per picture of features (N, R, C)."""
    captions = []
    for chunk in features.split(256) if len(features) else ():
        found = beam_search(decoder, chunk.to(device).float(), SearchOptions(beam_size=1, max_length=max_length))
        captions += [vocabulary.for_metrics(vocabulary.decode(best.tokens)) for best, *_ in found]
    return captions
