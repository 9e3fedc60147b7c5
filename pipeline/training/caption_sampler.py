"""Captions sampled for self-critical training, on a GPU as a CUDA graph.

Shapes: M images, S samples per image, R regions, C channels, V vocabulary, T steps.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.accel.cuda_graphs import GraphedFunction
from pipeline.decoders.decoder import Decoder
from pipeline.decoders.sampling import sample_tokens, sampling_noise
from pipeline.decoders.search import SamplingOptions


class CaptionSampler:
    """Samples from the decoder without dropout."""

    def __init__(self, decoder: Decoder, *, samples: int, max_length: int, bfloat16: bool) -> None:
        self.graphs: GraphedFunction | None = None
        self._decoder, self._samples, self._bfloat16 = decoder, samples, bfloat16
        self._options = SamplingOptions(max_length=max_length)

    def use_cuda_graphs(self) -> None:
        """Replay the sampling of a batch as one CUDA graph for each number of images."""
        self.graphs = GraphedFunction(self.compute, list)

    def __call__(self, features: Tensor, seed: int) -> Tensor:
        """Tokens (M S, T) for features (M, R, C), each caption followed by EOS. Raises `CaptureError`."""
        generator = torch.Generator(features.device).manual_seed(seed)
        noise = sampling_noise(self._decoder, len(features) * self._samples, self._options, generator)
        was_training = self._decoder.training
        self._decoder.eval()
        try:
            return self.graphs(features, torch.stack(list(noise))) if self.graphs else self.compute(features, noise)
        finally:
            self._decoder.train(was_training)

    def compute(self, features: Tensor, noise: Iterable[Tensor]) -> Tensor:
        """Sample with the given noise (T, M S, V): the function that is captured."""
        captured, device = self.graphs is not None, features.device.type
        # The cache of autocast would keep casts of the weights from one call to the next.
        with torch.autocast(device, torch.bfloat16, enabled=self._bfloat16, cache_enabled=not captured):
            samples = sample_tokens(
                self._decoder,
                features,
                noise,
                self._options,
                captions=self._samples,
                early_stop=not captured,
            )
        return samples.tokens
