"""Training objectives against their definitions."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from toy_training import FEATURES, MAX_LENGTH, TEXTS, VOCABULARY, make_data, make_decoder_of, make_params

from pipeline.decoders.registry import DECODERS, make_decoder
from pipeline.decoders.sampling import sample
from pipeline.decoders.search import NEVER_GENERATED, SamplingOptions
from pipeline.tokens import BOS, EOS, PAD
from pipeline.training.batches import Batch
from pipeline.training.caption_sampler import CaptionSampler
from pipeline.training.distributed import SINGLE_PROCESS, ProcessGroup
from pipeline.training.losses import BagOfWords, CaptionLoss, scheduled_sampling, self_critical_batch


def make_batch(size=30):
    """A decoder, one batch of captions and their features."""
    params = make_params(batch_size=size)
    batch = next(iter(make_data(params).batches.epoch(1)))
    return make_decoder_of(params), batch, FEATURES[batch.images]


def test_label_smoothing_spreads_a_share_of_the_probability_over_all_tokens():
    decoder, batch, features = make_batch()
    logs = decoder(features, batch.inputs).log_softmax(-1)
    likelihood = logs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
    expected = -(0.7 * likelihood + 0.3 * logs.mean(-1)).sum()
    torch.testing.assert_close(CaptionLoss(decoder, label_smoothing=0.3)(features, batch), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masking_the_padding_gives_the_loss_of_the_real_positions(smoothing):
    params = make_params(decoder={"kind": "attention"})
    decoder = make_decoder_of(params)
    inputs, targets = torch.tensor([[1, 4, 5], [1, 6, 0]]), torch.tensor([[4, 5, 2], [6, 2, PAD]])
    positions = torch.tensor([0, 1, 2, 3, 4])
    loss = CaptionLoss(decoder, label_smoothing=smoothing)
    real = Batch(torch.arange(2), inputs, targets, positions, tokens=5)
    masked = Batch(torch.arange(2), inputs, targets, None, tokens=5)
    torch.testing.assert_close(loss(FEATURES[:2], masked), loss(FEATURES[:2], real))


@pytest.mark.parametrize("kind", DECODERS)
def test_the_gradients_of_the_shares_add_up_to_that_of_the_whole_batch(kind):
    params = make_params(decoder={"kind": kind}, batch_size=10)
    decoder, batches = make_decoder_of(params), make_data(params).batches
    loss = CaptionLoss(decoder, label_smoothing=0.1)

    def gradients(batch):
        decoder.zero_grad(set_to_none=True)
        (loss(FEATURES[batch.images], batch) / batch.tokens).backward()
        return [parameter.grad for parameter in decoder.parameters()]

    expected = gradients(next(iter(batches.epoch(1))))
    groups = [ProcessGroup(SINGLE_PROCESS.device, rank, 12) for rank in range(12)]  # two of them without a share
    parts = [gradients(next(iter(batches.epoch(1, group)))) for group in groups]
    for name, whole, *shares in zip(dict(decoder.named_parameters()), expected, *parts, strict=True):
        assert None not in (whole, *shares), f"{name}: DistributedDataParallel needs a gradient of every parameter"
        torch.testing.assert_close(sum(shares), whole, rtol=1e-4, atol=1e-6, msg=name)


def bag_of_words():
    """Three images: word 4 is in the captions of all, word 5 of two, words 6 and 7 of one."""
    captions = torch.tensor([[1, 4, 5, 2], [1, 4, 5, 2], [1, 4, 3, 2], [1, 4, 6, 2], [1, 7, 5, 2], [1, 4, 4, 2]])
    return BagOfWords(8, 9, captions, torch.tensor([0, 0, 1, 1, 3, 3]))


def test_rare_words_weigh_more_and_words_of_all_images_nothing():
    bag = bag_of_words()
    rows = zip(bag.words.tolist(), bag.weights.tolist(), strict=True)
    weights = [dict(zip(words, of_words, strict=True)) for words, of_words in rows]
    assert weights[0][4] == 0
    assert weights[0][5] == 1
    assert weights[1][6] == 1
    assert weights[3][7] == pytest.approx(math.log(3) / (math.log(3) + math.log(1.5)))
    assert sum(weights[2].values()) == 0, "an image without captions"
    assert not any({1, 2, 3} & {word for word, weight in of_image.items() if weight} for of_image in weights)


def test_the_bag_of_words_loss_is_the_cross_entropy_of_the_words():
    bag = bag_of_words()
    vectors = torch.randn(2, 8)
    expected = -bag.output(vectors).log_softmax(-1)[[0, 1], [5, 6]]
    torch.testing.assert_close(bag(vectors, torch.tensor([0, 1])), expected)


def test_the_bag_of_words_loss_counts_once_per_token():
    decoder, batch, features = make_batch()
    batches = make_data(make_params()).batches
    bag = BagOfWords(decoder.hidden, len(VOCABULARY), batches.captions, batches.images)
    plain = CaptionLoss(decoder)(features, batch)
    both = CaptionLoss(decoder, bag=bag, bag_weight=0.5)(features, batch)
    bag_losses = bag(decoder.image_vector(decoder.start(features)), batch.images)
    tokens = torch.tensor([len(TEXTS[image]) + 1.0 for image in batch.images])
    torch.testing.assert_close(both - plain, 0.5 * (bag_losses * tokens).sum(), rtol=1e-4, atol=1e-4)


def test_scheduled_sampling_replaces_inputs_by_predictions(monkeypatch):
    decoder, batch, features = make_batch()

    def following(tokens):
        return (tokens + 1) % len(VOCABULARY)

    def certain(features, tokens):
        return 100.0 * functional.one_hot(following(tokens), len(VOCABULARY))

    monkeypatch.setattr(decoder, "forward", certain)
    predicted = torch.cat([batch.inputs[:, :1], following(batch.inputs[:, :-1])], 1)
    differs = predicted != batch.inputs
    none, half, every = (scheduled_sampling(decoder, features, batch, share).inputs for share in (0.0, 0.5, 1.0))
    assert torch.equal(none, batch.inputs)
    assert torch.equal(half[~differs], batch.inputs[~differs])
    assert 0.2 < (half == predicted)[differs].float().mean() < 0.8
    assert torch.equal(every, predicted)


def test_samples_are_drawn_without_dropout():
    params = make_params(decoder={"output_dropout": 0.9})
    decoder, images = make_decoder_of(params).train(), torch.arange(3)
    without_dropout = copy.deepcopy(decoder).eval()
    tokens = CaptionSampler(decoder, samples=20, max_length=MAX_LENGTH, bfloat16=False)(FEATURES[:3], seed=7)
    assert decoder.training
    sampled = []

    def reward(images, captions):
        sampled.extend(captions)
        return torch.ones(len(captions))

    self_critical_batch(tokens, images, reward, max_length=MAX_LENGTH)
    expected = sample(without_dropout, FEATURES[:3], SamplingOptions(max_length=MAX_LENGTH, seed=7), captions=20)
    assert sampled == [hypothesis.tokens for of_image in expected for hypothesis in of_image]


def test_a_sample_is_weighted_by_its_advantage_over_the_other_ones():
    decoder = make_decoder_of(make_params())

    def by_length(images, captions):
        return torch.tensor([float(len(caption)) for caption in captions])

    tokens = CaptionSampler(decoder, samples=4, max_length=MAX_LENGTH, bfloat16=False)(FEATURES[:3], seed=7)
    batch, mean = self_critical_batch(tokens, torch.arange(3), by_length, max_length=MAX_LENGTH)
    real = batch.targets != PAD
    scores = (real.sum(1) - 1.0).view(3, 4)
    advantages = scores - (scores.sum(1, keepdim=True) - scores) / 3
    assert mean == pytest.approx(float(scores.mean()))
    expected = advantages.flatten().unsqueeze(1) * real
    expected[:, MAX_LENGTH:] = 0
    torch.testing.assert_close(batch.weights, expected)


def test_the_self_critical_gradient_is_that_of_the_sampled_distribution():
    """All captions of at most one token, by hand: `<unk>` is never sampled, and the end after one token is forced."""
    torch.manual_seed(0)
    decoder = make_decoder(make_params().decoder.model_dump(), vocabulary=7, regions=1, channels=3).eval()
    features = FEATURES[:1]
    words = torch.tensor([[EOS, EOS], [4, EOS], [5, EOS], [6, EOS]])
    rewards = torch.tensor([0.0, 1.0, 3.0, 2.0])

    log_probs, _ = decoder.step(decoder.start(features), torch.tensor([BOS]))
    log_probs = log_probs.index_fill(1, torch.tensor(NEVER_GENERATED), -torch.inf).log_softmax(1)
    probabilities = log_probs[0, words[:, 0]].exp()
    decoder.zero_grad()
    (probabilities * rewards).sum().backward()
    expected = [parameter.grad.clone() for parameter in decoder.parameters() if parameter.grad is not None]

    batch, _ = self_critical_batch(words, torch.arange(1), lambda images, captions: rewards, max_length=1)
    batch = replace(batch, weights=(batch.weights != 0) * (probabilities.detach() * rewards).unsqueeze(1))
    decoder.zero_grad()
    (-CaptionLoss(decoder)(features.repeat_interleave(4, 0), batch)).backward()
    found = [parameter.grad for parameter in decoder.parameters() if parameter.grad is not None]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_self_critical_loss_makes_better_samples_more_likely():
    torch.manual_seed(0)
    decoder = make_decoder(make_params().decoder.model_dump(), vocabulary=8, regions=1, channels=3)
    features, images = FEATURES[:3], torch.arange(3)

    def token_five(images, captions):
        return torch.tensor([float(5 in caption) for caption in captions])

    def probability_of_five():
        log_probs, _ = decoder.eval().step(decoder.start(features), torch.full((3,), 1))
        return log_probs[:, 5].exp().mean()

    sampler = CaptionSampler(decoder, samples=6, max_length=3, bfloat16=False)
    before, optimizer = probability_of_five(), torch.optim.SGD(decoder.parameters(), lr=1.0)
    for seed in range(30):
        batch, _ = self_critical_batch(sampler(features, seed), images, token_five, max_length=3)
        optimizer.zero_grad()
        (CaptionLoss(decoder)(features.repeat_interleave(6, 0), batch) / batch.tokens).backward()
        optimizer.step()
    assert probability_of_five() > before + 0.2
