"""Training objectives: cross-entropy, bag of words, scheduled sampling and self-critical training.

Shapes: B captions of a batch, T steps, n real tokens, V vocabulary, H hidden state, R regions, C channels, M images,
W distinct words of an image's captions, S samples per image.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.decoders.decoder import Decoder
from pipeline.decoders.search import NEVER_GENERATED
from pipeline.tokens import BOS, EOS, PAD, UNK
from pipeline.training.batches import Batch

Reward = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""From image indices (B,) and one caption for each, as tokens, to the score of each caption (B,)."""


class BagOfWords(nn.Module):
    """Predict the words of an image's captions, in no order, from the decoder's image vector alone.

    S. Ma et al., "Bag-of-Words as Target for Neural Machine Translation", ACL 2018. Unlike there, words are weighted by
    tf-idf over the images, and the output layer is separate from the decoder's; it is discarded after training.
    """

    words: Tensor
    """(M, W) the words of each image's captions, padded."""
    weights: Tensor
    """(M, W) their tf-idf weights, normalized to a sum of 1; 0 for padding."""

    def __init__(self, hidden: int, vocabulary: int, captions: Tensor, images: Tensor) -> None:
        """`captions` (N, T) are tokens, `images` (N,) the index of each caption's image."""
        super().__init__()
        self.output = nn.Linear(hidden, vocabulary)
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for caption, image in zip(captions.tolist(), images.tolist(), strict=True):
            counts[image].update(set(caption) - {PAD, BOS, EOS, UNK})
        frequency = Counter(word for count in counts.values() for word in count)
        idf = {word: math.log(len(counts) / number) for word, number in frequency.items()}
        size = (max(counts) + 1, max(map(len, counts.values())))
        words, weights = torch.zeros(size, dtype=torch.long), torch.zeros(size)
        for image, count in counts.items():
            tf_idf = torch.tensor([number * idf[word] for word, number in count.items()])
            words[image, : len(count)] = torch.tensor(list(count), dtype=torch.long)
            weights[image, : len(count)] = tf_idf / tf_idf.sum().clamp_min(1e-6)
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, image_vectors: Tensor, images: Tensor) -> Tensor:
        """Weighted cross-entropy (B,) of each image's words, from image vectors (B, H) and image indices (B,)."""
        log_probabilities = self.output(image_vectors).float().log_softmax(-1)  # (B, V)
        # Not `gather`, whose deterministic gradient on a GPU reads the indices and so cannot be captured.
        row = torch.arange(len(images), device=images.device).unsqueeze(1)  # (B, 1)
        of_words = log_probabilities[row, self.words[images]]  # (B, W)
        losses: Tensor = -(of_words * self.weights[images]).sum(1)
        return losses


class CaptionLoss(nn.Module):
    """Negative log-likelihood of captions given image features, in nats, summed over the real tokens of a batch."""

    never: Tensor
    """(V,) minus infinity for the tokens that are never sampled, otherwise 0."""

    def __init__(
        self, decoder: Decoder, *, label_smoothing: float = 0.0, bag: BagOfWords | None = None, bag_weight: float = 0.0
    ) -> None:
        """With a `bag`, `bag_weight` times its loss is added for each token."""
        super().__init__()
        self.decoder, self.bag = decoder, bag
        self._label_smoothing, self._bag_weight = label_smoothing, bag_weight
        never = torch.zeros(decoder.embedding.num_embeddings)
        never[list(NEVER_GENERATED)] = -torch.inf
        self.register_buffer("never", never, persistent=False)

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """The sum (), from features (B, R, C).

        The captions of a batch with weights were sampled: their likelihood is that of the distribution they were
        sampled from, without label smoothing and bag of words.
        """
        state = self.decoder.start(features)
        logits = self.decoder.follow(state, self.decoder.embed(batch.inputs), batch.positions)  # (n, V) or (B, T, V)
        logits, targets = logits.flatten(0, -2).float(), batch.targets.flatten()
        if batch.positions is not None:
            targets = targets[batch.positions]  # (n,)
        if batch.weights is not None:
            weights = batch.weights.flatten()
            if batch.positions is not None:
                weights = weights[batch.positions]  # (n,)
            losses = functional.cross_entropy(logits + self.never, targets, ignore_index=PAD, reduction="none")
            weighted: Tensor = (weights * losses).sum()
            return weighted
        loss: Tensor = functional.cross_entropy(
            logits, targets, ignore_index=PAD, label_smoothing=self._label_smoothing, reduction="sum"
        )
        if self.bag is None:
            return loss
        image_vectors = self.decoder.output_dropout(self.decoder.image_vector(state))  # (B, H)
        bag_losses: Tensor = self.bag(image_vectors, batch.images)  # (B,)
        return loss + self._bag_weight * (bag_losses * (batch.targets != PAD).sum(1)).sum()


@torch.no_grad()
def scheduled_sampling(decoder: Decoder, features: Tensor, batch: Batch, probability: float) -> Batch:
    """Replace each input token with `probability` by one sampled from the decoder's prediction for it.

    S. Bengio et al., "Scheduled Sampling", NeurIPS 2015; all steps at once as in T. Mihaylova and A. Martins,
    "Scheduled Sampling for Transformers", 2019: the predictions are those for the original inputs.
    """
    inputs = batch.inputs
    predictions = decoder(features, inputs).float().softmax(-1)[:, :-1]  # (B, T - 1, V)
    predictions = predictions.nan_to_num(1.0)  # which `multinomial` refuses; the loss will be NaN and reported
    sampled = torch.multinomial(predictions.flatten(0, 1), 1).view(len(inputs), -1)  # (B, T - 1)
    replaced = (torch.rand(sampled.shape, device=sampled.device) < probability) & (inputs[:, 1:] != PAD)
    return replace(batch, inputs=torch.cat([inputs[:, :1], torch.where(replaced, sampled, inputs[:, 1:])], 1))


def self_critical_batch(tokens: Tensor, images: Tensor, reward: Reward, *, max_length: int) -> tuple[Batch, float]:
    """Weight sampled captions by their advantage; return them as a batch (M S captions) and their mean reward.

    The gradient of the batch's loss makes samples that score better than the other ones of their image more likely:
    S. Rennie et al., "Self-critical Sequence Training", CVPR 2017, with the mean of the other samples as the baseline
    (R. Luo, "A Better Variant of Self-Critical Sequence Training", 2020). `tokens` (M S, T) hold S captions for each of
    the `images` (M,), each followed by EOS. Behind `max_length` tokens EOS was not sampled, so it has no weight.
    """
    samples = len(tokens) // len(images)
    captions = [tuple(row[: row.index(EOS)]) for row in tokens.tolist()]
    scores = reward(images.repeat_interleave(samples), captions).view(-1, samples)  # (M, S)
    baselines = (scores.sum(1, keepdim=True) - scores) / (samples - 1)
    advantages = (scores - baselines).flatten().float()  # (M S,)

    longest = max(len(caption) for caption in captions)
    padded = torch.full((len(captions), longest + 2), PAD)
    for row, caption in enumerate(captions):
        padded[row, : len(caption) + 2] = torch.tensor([BOS, *caption, EOS])
    targets = padded[:, 1:]
    positions = (targets != PAD).flatten().nonzero().squeeze(1)
    weights = advantages.unsqueeze(1) * (targets != PAD)
    weights[:, max_length:] = 0
    images = images.repeat_interleave(samples)
    batch = Batch(images, padded[:, :-1], targets, positions, tokens=len(positions), weights=weights)
    return batch, float(scores.mean())
