"""What a decoder is taught by: the captions of people, or the score of its own captions.

B captions, T steps, V tokens, N pictures, S samples of each.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.accel.linear import Linear
from pipeline.decoders import BOS, EOS, PAD, UNK, Decoder
from pipeline.decoders.beam_search import SamplingOptions, sample
from pipeline.training.batches import Batch

Reward = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""From the feature rows of pictures (M,) and a caption for each, as token numbers, to the score of each (M,)."""


class BagOfWords(nn.Module):
    """The picture alone has to say the words of its captions, in no order; the rarer, the more a word counts.

    S. Ma et al., "Bag-of-Words as Target for Neural Machine Translation", ACL 2018; words are weighted by tf-idf, as
    CIDEr does. A layer of its own says them; it is not part of the model.
    """

    words: Tensor
    shares: Tensor

    def __init__(self, hidden: int, vocabulary: int, captions: Tensor, images: Tensor) -> None:
        """`captions` (N, T) are token numbers, `images` (N,) the feature row of each."""
        super().__init__()
        self.say = Linear(hidden, vocabulary)
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for caption, image in zip(captions.tolist(), images.tolist(), strict=True):
            counts[image].update(set(caption) - {PAD, BOS, EOS, UNK})
        pictures = Counter(word for count in counts.values() for word in count)
        rarity = {word: math.log(len(counts) / number) for word, number in pictures.items()}
        size = (max(counts) + 1, max(map(len, counts.values())))
        words, shares = torch.zeros(size, dtype=torch.long), torch.zeros(size)
        for image, count in counts.items():
            weights = torch.tensor([number * rarity[word] for word, number in count.items()])
            words[image, : len(count)] = torch.tensor(list(count), dtype=torch.long)
            shares[image, : len(count)] = weights / weights.sum().clamp_min(1e-6)
        self.register_buffer("words", words, persistent=False)  # (M, W) of each picture
        self.register_buffer("shares", shares, persistent=False)  # (M, W) of each word, 1 in all; or 0

    def forward(self, known: Tensor, images: Tensor) -> Tensor:
        """Cross-entropy of each picture (B,), from what the decoder knows of it (B, H); `images` are feature rows."""
        said = self.say(known).float().log_softmax(-1)
        of_each: Tensor = -(said.gather(1, self.words[images]) * self.shares[images]).sum(1)
        return of_each


def cross_entropy(
    decoder: Decoder,
    features: Tensor,
    batch: Batch,
    *,
    label_smoothing: float,
    own_words: float = 0.0,
    bag: BagOfWords | None = None,
    bag_weight: float = 0.0,
) -> Tensor:
    """Mean over the real tokens, in nats.

    `own_words` is the probability with which an input word is replaced by one that the decoder itself would say there
    (S. Bengio et al., "Scheduled SamplingOptions", NeurIPS 2015; all steps at once as T. Mihaylova and A. Martins, 2019).
    With a `bag`, `bag_weight` times its loss is added, in which a caption counts by its tokens too.
    """
    inputs = batch.inputs
    if own_words:
        inputs = _with_own_words(decoder, features, inputs, own_words)
    words, state = decoder.words(inputs), decoder.start(features)
    logits = decoder.follow(state, words, batch.places)
    targets = batch.targets.flatten()[batch.places]
    loss = functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    if bag is None:
        return loss
    of_each = bag(decoder.output_dropout(decoder.picture(state)), batch.images)
    of_tokens: Tensor = of_each[batch.places // batch.targets.shape[1]]
    return loss + bag_weight * of_tokens.mean()


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
    drawn = sample(decoder, features, SamplingOptions(max_length=max_length), captions=samples, generator=generator)
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
