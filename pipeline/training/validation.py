"""Validation after each epoch: CIDEr-D of greedy captions, and the cross-entropy of the references.

CIDEr-D decides when training stops, because the cross-entropy goes on falling after the captions have become worse.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.search import SearchOptions
from pipeline.metrics.cider import CiderD
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.feature_source import FeatureSource, chunks, with_features
from pipeline.training.losses import CaptionLoss

MAX_LENGTH = 240
"""Longest caption that is generated during training: one very long reference must not slow down every epoch."""


class Validation:
    """The images of the val split with their references."""

    def __init__(
        self,
        features: FeatureSource,
        batches: Batches,
        references: Sequence[Sequence[str]],
        vocabulary: Vocabulary,
        *,
        device: torch.device,
    ) -> None:
        """`references` of each image are tokenized and joined by spaces; `batches` are the same captions as tokens."""
        self._features, self._batches, self._references, self._vocabulary = features, batches, references, vocabulary
        self._device = device
        self._cider = CiderD(references)

    @cached_property
    def max_length(self) -> int:
        """Length limit of generated captions, in tokens: that of the longest reference."""
        longest = max(len(reference.split()) for references in self._references for reference in references)
        with_spaces = " " in self._vocabulary.tokens  # a character vocabulary has the space, the metrics ignore it
        return min(MAX_LENGTH, 2 * longest if with_spaces else longest)

    def cider_d(self, decoder: Decoder) -> float:
        """CIDEr-D of greedy captions, times 100."""
        decoder.eval()
        options = SearchOptions(beam_size=1, max_length=self.max_length)
        captions = []
        for features in self._features.batches(chunks(len(self._features))):
            for best, *_ in beam_search(decoder, features, options):
                captions.append(self._vocabulary.for_metrics(self._vocabulary.decode(best.tokens)))
        score: float = 100 * float(self._cider.score(captions).mean())
        return score

    @torch.no_grad()
    def loss(self, decoder: Decoder) -> float:
        """Cross-entropy of the references, in nats per token, without dropout and label smoothing."""
        loss = CaptionLoss(decoder).eval()
        total, tokens = torch.zeros((), device=self._device), 0
        for batch, features in with_features(self._batches.epoch(0), self._features, self._device):
            total += loss(features, batch)
            tokens += batch.tokens
        return float(total) / tokens
