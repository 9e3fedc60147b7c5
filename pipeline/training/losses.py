"""What a decoder is taught by: the captions of people, or the score of its own captions.

B captions, T steps, V tokens, N pictures, S samples of each.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.decoders import BOS, EOS, PAD, Decoder
from pipeline.decoders.search import Sampling, sample
from pipeline.training.batches import Batch

Reward = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""From the feature rows of pictures (M,) and a caption for each, as token numbers, to the score of each (M,)."""


def cross_entropy(
    decoder: Decoder, features: Tensor, batch: Batch, *, label_smoothing: float, own_words: float = 0.0
) -> Tensor:
    """Mean over the real tokens, in nats.

    `own_words` is the probability with which an input word is replaced by one that the decoder itself would say there
    (S. Bengio et al., "Scheduled Sampling", NeurIPS 2015; all steps at once as T. Mihaylova and A. Martins, 2019).
    """
    inputs = batch.inputs
    if own_words:
        inputs = _with_own_words(decoder, features, inputs, own_words)
    logits = decoder(features, inputs, batch.places)
    targets = batch.targets.flatten()[batch.places]
    return functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


@torch.no_grad()
def _with_own_words(decoder: Decoder, features: Tensor, inputs: Tensor, share: float) -> Tensor:
    probabilities = decoder(features, inputs).float().softmax(-1)  # (B, T, V)
    own = torch.multinomial(probabilities[:, :-1].flatten(0, 1), 1).view(len(inputs), -1)
    replace = (torch.rand(own.shape, device=own.device) < share) & (inputs[:, 1:] != PAD)
    return torch.cat([inputs[:, :1], torch.where(replace, own, inputs[:, 1:])], 1)


def self_critical(
    decoder: Decoder, features: Tensor, rows: Tensor, reward: Reward, *, samples: int, max_length: int, seed: int
) -> tuple[Tensor, float, int]:
    """The loss whose gradient makes samples better than their picture's other ones likelier; their mean reward; tokens.

    S. Rennie et al., "Self-critical Sequence Training", CVPR 2017, with the mean of the other samples as the baseline
    (R. Luo, "A Better Variant of Self-Critical Sequence Training", 2020). `features` (N, R, C) are those of `rows`.
    """
    generator = torch.Generator(features.device).manual_seed(seed)
    decoder.eval()  # what is scored is what the decoder says, not what dropout leaves of it
    drawn = sample(decoder, features, Sampling(max_length=max_length), captions=samples, generator=generator)
    decoder.train()
    captions = [one.tokens for found in drawn for one in found]  # (N S)
    scores = reward(rows.repeat_interleave(samples), captions).view(-1, samples)
    baseline = (scores.sum(1, keepdim=True) - scores) / (samples - 1)
    advantage = (scores - baseline).flatten().to(features.device)  # (N S)

    length = max(len(caption) for caption in captions) + 1
    tokens = torch.full((len(captions), length + 1), PAD, device=features.device)
    for place, caption in enumerate(captions):
        tokens[place, : len(caption) + 2] = torch.tensor([BOS, *caption, EOS], device=features.device)
    targets = tokens[:, 1:]
    places = (targets != PAD).flatten().nonzero().squeeze(1)
    logits = decoder(features.repeat_interleave(samples, 0), tokens[:, :-1], places)
    said = -functional.cross_entropy(logits.float(), targets.flatten()[places], reduction="none")
    weight = advantage.unsqueeze(1).expand_as(targets).flatten()[places]
    return -(weight * said).sum() / len(places), float(scores.mean()), len(places)
