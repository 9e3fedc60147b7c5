"""The training loop: what each option does, which epoch is kept, when training stops, and resuming after a kill."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from toy_training import (
    FEATURES,
    MAX_LENGTH,
    SEED,
    TOKENS,
    VAL_IMAGES,
    VOCABULARY,
    Killed,
    color_reward,
    largest_difference,
    make_trainer,
    make_validation,
    train,
    weights_of,
)

from pipeline.errors import NumericError
from pipeline.params import ScoreParams
from pipeline.stages.score import search_options
from pipeline.training.batches import Batches, epoch_seed
from pipeline.training.caption_sampler import CaptionSampler
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.determinism import deterministic
from pipeline.training.feature_source import ResidentFeatures
from pipeline.training.losses import CaptionLoss, self_critical_batch
from pipeline.training.trainer import check_finite
from pipeline.training.validation import Validation


def equal_reward(images, captions):
    """No caption is better than another: the gradient is zero."""
    return torch.ones(len(captions))


def scst(**changes):
    return {"epochs": 3, "lr": 1e-2, "samples": 5, "cross_entropy": 0.0, **changes}


def run(trainer, epochs):
    """Run epochs; return the weights after each."""
    history = []
    for _ in range(epochs):
        assert trainer.start_epoch()
        trainer.run_epoch()
        history.append(weights_of(trainer.decoder))
    return history


def assert_same_bits(trainer, other):
    """Equal metrics and equal weights."""
    metrics, others = (
        [(one.train_loss, one.val_cider_d, one.lr) for one in each.history.epochs] for each in (trainer, other)
    )
    assert metrics == others
    for name, tensor in trainer.decoder.state_dict().items():
        assert torch.equal(tensor, other.decoder.state_dict()[name]), name


@pytest.mark.parametrize("before", ["default", "warn", "error"])
def test_the_settings_before_a_deterministic_block_are_restored(before):
    torch.set_deterministic_debug_mode(before)
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    with deterministic(threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert torch.get_deterministic_debug_mode() == 2
    assert (torch.get_deterministic_debug_mode(), torch.get_num_threads()) == (mode, threads)


def test_training_lowers_the_losses_and_keeps_the_best_epoch():
    history = train().history
    first, last = history.epochs[0], history.epochs[-1]
    assert last.train_loss < first.train_loss
    assert last.val_loss < 0.5 * first.val_loss
    assert history.best.val_loss == min(metrics.val_loss for metrics in history.epochs), "six val images are few"
    assert history.best.val_cider_d > 50


def test_bfloat16_training_learns_too():
    assert train(precision="auto").history.best.val_cider_d > 50


def test_the_val_loss_is_the_cross_entropy_of_the_averaged_weights_that_are_kept():
    trainer = train(label_smoothing=0.1, ema=0.9)
    tokens = torch.tensor(TOKENS[:VAL_IMAGES])
    with torch.no_grad():
        logits = trainer.decoder.eval()(FEATURES[:VAL_IMAGES], tokens[:, :-1])
    expected = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert trainer.history.best.val_loss == pytest.approx(float(expected), rel=1e-4)


def test_training_computes_the_same_bits_each_time():
    assert_same_bits(train(epochs=4), train(epochs=4))


def test_of_equal_scores_the_lower_val_loss_is_selected():
    trainer = make_trainer(scores=[40.0, 50.0, 50.0, 50.0], losses=[1.0, 3.0, 2.0, 2.5])
    run(trainer, 4)
    assert trainer.history.best.epoch == 3


def test_while_all_scores_are_zero_the_val_loss_decides():
    trainer = make_trainer(scores=[0.0] * 6, losses=[6.0, 5.0, 4.0, 3.0, 2.0, 2.0], epochs=10, patience=1)
    run(trainer, 6)
    assert trainer.history.best.epoch == 5
    assert not trainer.start_epoch()


def test_with_few_val_images_the_val_loss_decides():
    # One chance n-gram of four images gave the first epoch a score, and halving the loss gave none.
    trainer = make_trainer(
        scores=[6.0, 0.0, 0.0, 0.0, 0.0], losses=[3.0, 2.5, 1.7, 1.8, 1.9], score_decides=False, epochs=9, patience=2
    )
    run(trainer, 5)
    assert trainer.history.best.epoch == 3
    assert not trainer.start_epoch()


def test_from_fifty_val_images_the_score_decides():
    def validation(images):
        tokens = [TOKENS[0]] * images
        batches = Batches(tokens, list(range(images)), batch_size=4, seed=SEED)
        source = ResidentFeatures(FEATURES[:1].expand(images, -1, -1))
        return Validation(source, batches, [["all so red"]] * images, VOCABULARY, device=torch.device("cpu"))

    assert [validation(images).score_decides for images in (49, 50)] == [False, True]


def test_validation_searches_with_a_smaller_beam_than_the_score_stage_and_is_otherwise_the_same():
    ours, scoring = make_validation().search, search_options(ScoreParams(), VOCABULARY)
    assert 1 < ours.beam_size < scoring.beam_size
    assert replace(ours, beam_size=scoring.beam_size, length_penalty=scoring.length_penalty) == scoring


def test_training_stops_when_the_score_no_longer_rises():
    trainer = make_trainer(scores=[10.0, 30.0, 20.0, 30.0, 30.0], epochs=20, patience=2)
    run(trainer, 4)  # the fourth score equals the best one, which is no progress
    assert not trainer.start_epoch()


def test_the_decoder_ends_with_the_mean_of_the_best_epochs():
    trainer = make_trainer(scores=[10.0, 50.0, 20.0, 40.0], average_best=2, epochs=4)
    weights = run(trainer, 4)
    trainer.history.load_mean_weights(trainer.decoder)
    mean = {name: (weights[1][name] + weights[3][name]) / 2 for name in weights[1]}
    assert largest_difference(mean, weights_of(trainer.decoder)) < 1e-6


@pytest.mark.parametrize(("score", "kept"), [(49.0, "best"), (50.5, "mean")])
def test_the_best_epoch_is_kept_where_the_mean_validates_worse(score, kept):
    # The third score and the last one are those of the mean, before the self-critical epoch and at the end.
    trainer = make_trainer(scores=[50.0, 40.0, score, 45.0, score], average_best=2, epochs=2, scst=scst(epochs=1))
    weights = run(trainer, 2)
    best = weights[0] if kept == "best" else {name: (weights[0][name] + weights[1][name]) / 2 for name in weights[0]}
    assert trainer.start_epoch()
    assert largest_difference(best, weights_of(trainer.decoder)) < 1e-6
    trainer.run()
    assert trainer.mean_validation == (score, 6.0)
    if kept == "best":
        assert largest_difference(best, weights_of(trainer.decoder)) == 0


def test_weight_decay_shrinks_the_weights_beside_the_step():
    plain, decayed = make_trainer(), make_trainer(weight_decay=0.5)
    before = weights_of(plain.decoder)
    run(plain, 1)
    run(decayed, 1)
    for name, after in weights_of(plain.decoder).items():
        difference = after - weights_of(decayed.decoder)[name]
        torch.testing.assert_close(difference, 1e-2 * 0.5 * before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_the_gradient_is_clipped_to_its_largest_norm(clip):
    trainer = make_trainer(clip=clip)
    run(trainer, 1)
    norm = float(torch.cat([parameter.grad.flatten() for parameter in trainer.decoder.parameters()]).norm())
    assert norm == pytest.approx(1e-3, rel=1e-2) if clip == 1e-3 else norm > 0.1


def test_the_probability_of_scheduled_sampling_rises_linearly(monkeypatch):
    probabilities = []

    def record(decoder, features, batch, probability):
        probabilities.append(probability)
        return batch

    monkeypatch.setattr("pipeline.training.trainer.scheduled_sampling", record)
    run(make_trainer(scheduled_sampling=0.5, epochs=3), 3)
    assert probabilities == [0.25, 0.5]
    run(make_trainer(scheduled_sampling=0.5, epochs=1), 1)
    assert probabilities == [0.25, 0.5, 0.5]


def self_critical_trainer(*scores, **changes):
    """A trainer that has run cross-entropy epochs with these scores and starts self-critical training next."""
    trainer = make_trainer(**{"scores": [*scores, *[50.0] * 5], "epochs": len(scores), "scst": scst(), **changes})
    run(trainer, len(scores))
    assert trainer.start_epoch()
    assert trainer.cross_entropy_epochs == len(scores)
    return trainer


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_self_critical_loss_includes_a_share_of_the_cross_entropy(share):
    def by_length(images, captions):
        return torch.tensor([float(len(caption)) for caption in captions])

    trainer = self_critical_trainer(50.0, reward=by_length, batch_size=150, scst=scst(cross_entropy=share))
    decoder = copy.deepcopy(trainer.decoder).train()
    (images,) = trainer.data.batches.image_epoch(2, 30)
    sampler = CaptionSampler(decoder, samples=5, max_length=MAX_LENGTH, bfloat16=False)
    drawn = sampler(FEATURES[images], epoch_seed(epoch_seed(SEED, 2), 0))
    samples, _ = self_critical_batch(drawn, images, by_length, max_length=MAX_LENGTH)
    sample_loss = CaptionLoss(decoder)(FEATURES[images].repeat_interleave(5, 0), samples) / samples.tokens
    (batch,) = trainer.data.batches.epoch(2)
    logits = decoder(FEATURES[batch.images], batch.inputs)
    cross_entropy = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    expected = (1 - share) * sample_loss.item() + share * cross_entropy.item()
    assert trainer.run_epoch().train_loss == pytest.approx(expected, rel=1e-5)


def test_each_step_of_each_self_critical_epoch_draws_its_own_random_numbers(monkeypatch):
    trainer = self_critical_trainer(50.0, reward=equal_reward, batch_size=30, patience=40, scst=scst(epochs=4))
    seeds, sample = [], trainer._sample

    def record(features, seed):
        seeds.append(seed)
        return sample(features, seed)

    monkeypatch.setattr(trainer, "_sample", record)
    trainer.run_epoch()
    steps = len(seeds)
    run(trainer, 3)
    assert steps > 1
    assert len(set(seeds)) == len(seeds) > steps


def test_self_critical_training_raises_the_reward():
    trainer = train(reward=color_reward, epochs=2, batch_size=30, patience=40, scst=scst(epochs=20, lr=2e-2))
    rewards = [metrics.reward for metrics in trainer.history.epochs]
    assert rewards[1] == 0
    assert rewards[-1] > rewards[2] + 20


def test_self_critical_training_starts_without_momentum():
    trainer = self_critical_trainer(50.0, 60.0, reward=equal_reward)
    before = weights_of(trainer.decoder)
    trainer.run_epoch()  # the gradient is zero, so only momentum could move the weights
    assert largest_difference(before, weights_of(trainer.decoder)) == 0


def test_self_critical_training_starts_at_the_best_weights():
    trainer = make_trainer(scores=[10.0, 50.0, 20.0], epochs=3, scst=scst())
    _, best, last = run(trainer, 3)
    assert largest_difference(best, last) > 1e-3
    assert trainer.start_epoch()
    assert largest_difference(best, weights_of(trainer.decoder)) == 0


def test_the_moving_average_starts_again_at_the_best_weights():
    trainer = self_critical_trainer(10.0, 50.0, 20.0, ema=0.9, reward=equal_reward)
    best = weights_of(trainer.decoder)
    trainer.run_epoch()  # the gradient is zero: the average of constant weights
    assert largest_difference(best, weights_of(trainer.ema.module)) < 1e-6
    assert int(trainer.ema.n_averaged) == 3 + 5, "its decay does not rise a second time"


def test_self_critical_training_may_come_alone():
    alone = {"scores": [50.0] * 3, "epochs": 0, "init_from": "starter", "reward": color_reward, "scst": scst()}
    trainer = make_trainer(**alone)
    run(trainer, 2)
    resumed = make_trainer(**alone)
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    run(resumed, 1)
    assert not resumed.start_epoch()
    assert all(metrics.reward for metrics in resumed.history.epochs)


def test_self_critical_training_stops_when_the_score_no_longer_rises():
    trainer = make_trainer(scores=[50.0, 40.0, 60.0, 55.0], epochs=1, patience=1, scst=scst(epochs=9))
    run(trainer, 2)
    assert not trainer.start_epoch()


def test_reference_captions_repeat_in_another_order_during_self_critical_training(monkeypatch):
    trainer = self_critical_trainer(50.0, batch_size=5, scst=scst(cross_entropy=0.5))
    seen, real = [], CaptionLoss.forward

    def record(self, features, batch):
        if batch.weights is None:
            seen.append(batch.images.tolist())
        return real(self, features, batch)

    monkeypatch.setattr(CaptionLoss, "forward", record)
    trainer.run_epoch()
    assert len(seen) == 30, "one image per step: its five samples are a batch"
    assert Counter(image for images in seen for image in images) == dict.fromkeys(range(30), 5)
    assert seen[:6] != seen[6:12]


def test_a_loss_that_is_not_finite_stops_with_its_epoch_and_step():
    with pytest.raises(NumericError, match=r"in epoch \d+, step \d+; lower params.train.lr"):
        train(lr=100.0, clip=1e9, weight_decay=100.0)


def test_the_step_of_a_loss_that_is_checked_late_is_named():
    finite, broken = torch.tensor(2.5), torch.tensor(float("inf"))
    check_finite([finite, finite], 3, lr="params.train.lr")
    with pytest.raises(NumericError, match=r"the loss is inf in epoch 3, step 2; lower params.train.lr or"):
        check_finite([finite, broken, broken], 3, lr="params.train.lr")


def test_weights_that_the_last_step_of_an_epoch_breaks_are_found():
    with pytest.raises(NumericError, match=r"weights .* are not finite after epoch \d+; lower params.train.lr or"):
        train(batch_size=30, lr=100.0, clip=1e9, weight_decay=100.0)  # one step per epoch


def test_a_weight_that_is_not_finite_is_found_even_if_no_val_caption_needs_it(monkeypatch):
    trainer = make_trainer()

    def update(loss):
        trainer.decoder.embedding.weight.data[0] = torch.inf
        return loss.detach()

    monkeypatch.setattr(trainer, "_update", update)
    with pytest.raises(NumericError, match=r"weights .* are not finite after epoch 1; lower params.train.lr or"):
        trainer.run()


def test_a_loss_that_is_not_finite_in_a_self_critical_epoch_names_its_learning_rate():
    with pytest.raises(NumericError, match=r"in epoch \d+, step \d+; lower params.train.scst.lr or"):
        train(reward=color_reward, epochs=1, clip=1e9, weight_decay=100.0, scst=scst(lr=100.0))


def test_the_decoder_has_the_best_weights_after_a_loss_that_is_not_finite(monkeypatch):
    trainer = make_trainer(scores=[10.0, 50.0, 20.0])
    forward, best = CaptionLoss.forward, {}

    def breaking(self, features, batch):
        if len(trainer.history) == 2:
            best.update(best or weights_of(trainer.decoder))
        return forward(self, features, batch) * (float("nan") if len(trainer.history) == 3 else 1)

    monkeypatch.setattr(CaptionLoss, "forward", breaking)
    with pytest.raises(NumericError, match="the loss is nan in epoch 4, step 1"):
        trainer.run()
    assert largest_difference(best, weights_of(trainer.decoder)) == 0


EVERYTHING = {
    "schedule": "plateau",
    "ema": 0.9,
    "average_best": 2,
    "scheduled_sampling": 0.3,
    "bag_of_words": 0.5,
    "warmup": 0.1,
    "epochs": 4,
    "scst": {"epochs": 2, "lr": 1e-3, "samples": 3, "cross_entropy": 0.2},
    "decoder": {"output_dropout": 0.3},
}


@pytest.fixture(scope="module")
def uninterrupted():
    return train(reward=color_reward, **EVERYTHING)


@pytest.mark.parametrize("kill_after", [1, 3, 4, 5])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, uninterrupted, kill_after):
    checkpoint = Checkpoint(tmp_path, {})
    with pytest.raises(Killed):
        train(checkpoint=checkpoint, kill_after=kill_after, reward=color_reward, **EVERYTHING)
    assert len(checkpoint.load()["history"]["epochs"]) == kill_after
    assert_same_bits(train(checkpoint=checkpoint, reward=color_reward, **EVERYTHING), uninterrupted)


def test_the_best_weights_of_a_resumed_run_are_on_its_device():
    trainer, resumed = make_trainer(), make_trainer()
    run(trainer, 1)
    resumed.device = torch.device("meta")
    resumed.load_state_dict(trainer.state_dict())
    ((epoch, weights),) = resumed.history.best_weights
    assert epoch == 1
    assert {weight.device for weight in weights.values()} == {resumed.device}
