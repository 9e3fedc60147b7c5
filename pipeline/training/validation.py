"""Validation after each epoch: CIDEr-D of generated captions, and the cross-entropy of the references.

CIDEr-D chooses the epoch and decides when training stops, because the cross-entropy rises while captions still improve.
The captions come from beam search: a greedy search can rank epochs differently, and its captions are complete where
those of a beam are still empty. A few images say little: one n-gram that happens to match can outweigh a
halved loss. With fewer than `MIN_IMAGES`, the cross-entropy decides.
"""

from collections.abc import Sequence

import torch

from pipeline.decoders.beam_search import beam_search
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.search import SearchOptions
from pipeline.metrics.cider import CiderD
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import Batches
from pipeline.training.feature_source import FeatureSource, chunks, with_features
from pipeline.training.losses import CaptionLoss

BEAM_SIZE, LENGTH_PENALTY = 3, 0.7
"""Faster than the default search of `params.score`, with which it agrees about epochs (docs/training.md)."""
MIN_IMAGES = 50
"""Val images from which CIDEr-D chooses the epoch."""


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

        self.search = SearchOptions(
            beam_size=BEAM_SIZE,
            length_penalty=LENGTH_PENALTY,
            max_length=vocabulary.max_length,
            no_repeat_ngram=vocabulary.no_repeat_ngram,
        )
        """The same for all `params.score`: a change of `score` must not need a new training."""

    @property
    def score_decides(self) -> bool:
        """Whether there are enough images to choose epochs by CIDEr-D."""
        return len(self._references) >= MIN_IMAGES

    @property
    def max_length(self) -> int:
        """Length limit of generated captions, in tokens: the one that `params.score.max_length: auto` has."""
        return self.search.max_length

    def cider_d(self, decoder: Decoder) -> float:
        """CIDEr-D of the captions that beam search finds, times 100."""
        decoder.eval()
        captions = []
        for features in self._features.batches(chunks(len(self._features))):
            for best, *_ in beam_search(decoder, features, self.search):
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
