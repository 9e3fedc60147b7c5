"""Batches and the loop: every caption once, the same way each time, and stopping at the right moment."""

import math
import os
import time

import pytest
import torch
from conftest import small_params

from pipeline import paths
from pipeline.decoders import make_decoder
from pipeline.errors import NumericError
from pipeline.params import read_params
from pipeline.stages.train import train as train_stage
from pipeline.text.vocabulary import Vocabulary
from pipeline.training.batches import PAD, Batches
from pipeline.training.checkpoint import Checkpoint, code_digest
from pipeline.training.determinism import deterministic
from pipeline.training.loop import train_decoder
from pipeline.training.losses import BagOfWords, cross_entropy, self_critical
from pipeline.training.schedule import Schedule
from pipeline.training.validation import Validation
from pipeline.training.weight_averaging import MovingAverage

CAPTIONS = [[1, *range(4, 4 + length), 2] for length in (3, 5, 2, 3, 7, 1, 4, 6, 2, 3)]


def batches(seed=1):
    return Batches(CAPTIONS, list(range(10)), batch_size=3, seed=seed)


def epoch(number, seed=1):
    return [(batch.images.tolist(), batch.inputs.tolist()) for batch in batches(seed).epoch(number)]


def test_an_epoch_holds_every_caption_once():
    assert sorted(image for images, _ in epoch(1) for image in images) == list(range(10))


def test_the_order_follows_the_seed_and_the_epoch_alone():
    assert epoch(2) == epoch(2)
    assert epoch(2) != epoch(3)
    assert epoch(2) != epoch(2, seed=5)


def test_captions_of_like_length_travel_together():
    padding = sum(batch.targets.numel() - batch.tokens for batch in batches().epoch(1))
    assert padding <= 8


def test_the_real_tokens_are_those_that_are_no_padding():
    for batch in batches().epoch(1):
        assert batch.places.tolist() == (batch.targets != PAD).flatten().nonzero().squeeze(1).tolist()
        assert batch.tokens == sum(len(CAPTIONS[image]) - 1 for image in batch.images)


def test_the_targets_are_the_inputs_one_later():
    for batch in batches().epoch(1):
        for image, read, said in zip(batch.images, batch.inputs, batch.targets, strict=True):
            caption, real = CAPTIONS[image], said != PAD
            assert read[real].tolist() == caption[:-1]
            assert said[real].tolist() == caption[1:]


WORDS = ["red", "green", "blue"]


class Killed(BaseException):
    pass


def reward(rows, captions):
    """One for the word of the picture's colour, as often as it is said in two words."""
    said = zip(rows.tolist(), captions, strict=True)
    return torch.tensor([float(caption[1:2] == (5 + row % 3,)) for row, caption in said])


def train(device="cpu", checkpoint=None, kill_after=None, reward=None, **changes):
    """Three colours as features, three words as captions."""
    params = small_params(train={"epochs": 12, "patience": 12, "lr": 1e-2, **changes})
    vocabulary = Vocabulary.build([["all", word] for word in WORDS], min_count=1, tokenizer="ptb")
    features = torch.eye(3).repeat(10, 1).view(30, 1, 3).half()
    texts = [["all", WORDS[number % 3]] for number in range(30)]
    torch.manual_seed(0)
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=len(vocabulary), regions=1, channels=3)
    rows = []

    def on_epoch(row):
        rows.append(row)
        if row.epoch == kill_after:
            raise Killed

    with deterministic(1):
        trained = train_decoder(
            decoder,
            features,
            Batches(vocabulary.encode(texts), list(range(30)), batch_size=8, seed=1),
            Validation(
                features[:6],
                [[" ".join(text)] for text in texts[:6]],
                Batches(vocabulary.encode(texts[:6]), list(range(6)), batch_size=4, seed=1),
            ),
            vocabulary,
            params.train,
            seed=1,
            device=torch.device(device),
            on_epoch=on_epoch,
            reward=reward,
            checkpoint=checkpoint,
        )
    return trained, rows, decoder


def test_training_learns_and_the_best_epoch_is_kept():
    trained, rows, _ = train()
    assert rows[-1].train_loss < rows[0].train_loss
    assert trained.best.val_cider_d == max(row.val_cider_d for row in rows) > 50
    assert rows[-1].val_loss < 0.5 * rows[0].val_loss


def test_the_val_loss_is_the_cross_entropy_of_the_weights_that_are_kept():
    trained, _, decoder = train(label_smoothing=0.1, ema=0.9)
    vocabulary = Vocabulary.build([["all", word] for word in WORDS], min_count=1, tokenizer="ptb")
    tokens = torch.tensor(vocabulary.encode([["all", WORDS[number % 3]] for number in range(6)]))
    features = torch.eye(3).repeat(2, 1).view(6, 1, 3)
    with torch.no_grad():
        logits = decoder.eval()(features, tokens[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert trained.best.val_loss == pytest.approx(float(expected), rel=1e-4)


def test_training_gives_the_same_bits_each_time():
    _, first_rows, first = train()
    _, second_rows, second = train()
    assert [row.train_loss for row in first_rows] == [row.train_loss for row in second_rows]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_while_no_caption_is_right_the_val_loss_decides(monkeypatch):
    monkeypatch.setattr("pipeline.metrics.cider.CiderD.score", lambda self, captions: torch.zeros(len(captions)))
    trained, rows, _ = train(epochs=8, patience=2, lr=1e-3)
    assert [row.val_cider_d for row in rows] == [0.0] * 8
    assert trained.best.val_loss == min(row.val_loss for row in rows)
    assert trained.best.epoch == 8


def test_training_stops_when_the_captions_get_no_better():
    trained, rows, _ = train(epochs=40, patience=2)
    assert len(rows) == trained.epochs == trained.best.epoch + 2 < 40


def test_a_loss_that_is_no_number_stops_with_its_place():
    with pytest.raises(NumericError, match=r"in epoch \d+, step \d+; lower params.train.lr"):
        train(lr=1e30, clip=1e30, weight_decay=1e10)


EVERYTHING = {
    "schedule": "plateau",
    "ema": 0.9,
    "average": 2,
    "scheduled_sampling": 0.3,
    "bag_of_words": 0.5,
    "warmup": 0.1,
    "epochs": 6,
    "scst": {"epochs": 3, "lr": 1e-3, "samples": 3, "cross_entropy": 0.2},
}


@pytest.mark.parametrize("killed_after", [1, 4, 6, 7, 8])
def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path, killed_after):
    _, whole_rows, whole = train(reward=reward, **EVERYTHING)
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    with pytest.raises(Killed):
        train(checkpoint=checkpoint, kill_after=killed_after, reward=reward, **EVERYTHING)
    trained, rows, resumed = train(checkpoint=checkpoint, reward=reward, **EVERYTHING)
    assert trained.resumed_after == killed_after
    assert [(row.train_loss, row.val_cider_d, row.lr) for row in rows] == [
        (row.train_loss, row.val_cider_d, row.lr) for row in whole_rows
    ]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_other_params_is_not_used(tmp_path):
    with pytest.raises(Killed):
        train(checkpoint=Checkpoint(tmp_path, {"lr": 1}), kill_after=2)
    assert Checkpoint(tmp_path, {"lr": 2}).load() is None
    assert Checkpoint(tmp_path, {"lr": 1}).load() is not None


def test_a_damaged_checkpoint_starts_anew(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"lr": 1})
    with pytest.raises(Killed):
        train(checkpoint=checkpoint, kill_after=2)
    content = checkpoint.path.read_bytes()
    for damaged in (content[:100], b"", content[:-50]):
        checkpoint.path.write_bytes(damaged)
        assert checkpoint.load() is None
    assert train(checkpoint=checkpoint)[0].resumed_after == 0


def test_a_checkpoint_goes_when_it_is_no_longer_needed(trained_project, tmp_path):
    params = read_params(trained_project / "params.yaml")
    inputs = {"captions": paths.CAPTIONS, "features": paths.FEATURES, "vocabulary": paths.VOCABULARY}
    inputs = {name: trained_project / path for name, path in {**inputs, "encoder": paths.ENCODER}.items()}
    folder = tmp_path / "checkpoints"

    def stage(on_epoch):
        outputs = {"model_out": tmp_path / "model", "curve_out": tmp_path / "curve", "checkpoints": folder}
        return train_stage(params.train, params.decoder, params.run, seed=1, on_epoch=on_epoch, **inputs, **outputs)

    def kill(row):
        raise Killed

    with pytest.raises(Killed):
        stage(kill)
    assert [path.suffix for path in folder.iterdir()] == [".checkpoint"]
    assert stage(lambda row: None).trained.resumed_after == 1
    assert list(folder.iterdir()) == []


def test_a_checkpoint_of_other_code_is_not_used(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(checkpoint=Checkpoint(tmp_path, {"lr": 1}), kill_after=2)
    monkeypatch.setattr("pipeline.training.checkpoint.code_digest", lambda: "of other code")
    assert Checkpoint(tmp_path, {"lr": 1}).load() is None
    monkeypatch.undo()
    assert Checkpoint(tmp_path, {"lr": 1}).load() is not None


def test_the_digest_of_the_code_is_that_of_what_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.checkpoint.__file__", str(tmp_path / "training" / "checkpoint.py"))
    digests = []
    for place in ("captions", "decoders", "metrics", "training", "commands"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "one.py").write_text(f"{place} = 1")
        digests.append(code_digest())
    assert len(set(digests)) == 4
    assert digests[-1] == digests[-2]
    (tmp_path / "decoders" / "one.py").write_text("decoders = 2")
    assert code_digest() not in digests


def test_checkpoints_that_nobody_came_back_to_go_with_another_one(tmp_path):
    for name, days in {"old.checkpoint": 31, "young.checkpoint": 29, "old.csv": 31}.items():
        (tmp_path / name).write_bytes(b"")
        then = time.time() - days * 86_400
        os.utime(tmp_path / name, (then, then))
    Checkpoint(tmp_path, {"lr": 1}).remove()
    assert {path.name for path in tmp_path.iterdir()} == {"young.checkpoint", "old.csv"}


def test_the_decoder_has_the_best_weights_when_the_loss_breaks(monkeypatch):
    from pipeline.training import trainer

    real, calls = trainer.cross_entropy, 0

    def breaking(decoder, *arguments, **options):
        nonlocal calls
        calls += decoder.training
        return real(decoder, *arguments, **options) * (float("nan") if calls > 20 else 1)

    monkeypatch.setattr(trainer, "cross_entropy", breaking)
    kept = []
    monkeypatch.setattr(trainer.Trainer, "take_best", lambda one: kept.append(one.kept[0][0]))
    with pytest.raises(NumericError, match="the loss is nan in epoch 6, step 1"):
        train()
    assert len(kept) == 1


def bag_of_words():
    """Three pictures: word 4 is in all, word 5 in two, 6 and 7 in one."""
    captions = torch.tensor([[1, 4, 5, 2], [1, 4, 5, 2], [1, 4, 3, 2], [1, 4, 6, 2], [1, 7, 5, 2], [1, 4, 4, 2]])
    return BagOfWords(8, 9, captions, torch.tensor([0, 0, 1, 1, 3, 3]))


def test_the_rarer_words_of_a_picture_count_more_and_those_of_all_nothing():
    bag = bag_of_words()
    rows = zip(bag.words.tolist(), bag.shares.tolist(), strict=True)
    found = [dict(zip(words, shares, strict=True)) for words, shares in rows]
    assert found[0][4] == 0
    assert found[0][5] == 1
    assert found[1][6] == 1
    assert found[3][7] == pytest.approx(math.log(3) / (math.log(3) + math.log(1.5)))
    assert sum(found[2].values()) == 0  # a row without captions
    assert not any({1, 2, 3} & {word for word, share in one.items() if share} for one in found)


def test_the_bag_of_words_loss_is_the_cross_entropy_of_those_words():
    bag = bag_of_words()
    known = torch.randn(2, 8)
    expected = -bag.say(known).log_softmax(-1)[[0, 1], [5, 6]]
    torch.testing.assert_close(bag(known, torch.tensor([0, 1])), expected)


def test_a_caption_counts_by_its_tokens_in_the_bag_of_words_loss():
    params = small_params()
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=12, regions=1, channels=3).eval()
    (batch,) = Batches(CAPTIONS, list(range(10)), batch_size=10, seed=1).epoch(1)
    features = torch.randn(10, 1, 3)
    bag = BagOfWords(decoder.hidden, 12, *(getattr(batches(), name) for name in ("tokens", "images")))
    plain = cross_entropy(decoder, features[batch.images], batch, label_smoothing=0.0)
    both = cross_entropy(decoder, features[batch.images], batch, label_smoothing=0.0, bag=bag, bag_weight=0.5)
    of_each = bag(decoder.picture(decoder.start(features[batch.images])), batch.images)
    tokens = torch.tensor([len(CAPTIONS[image]) - 1.0 for image in batch.images])
    torch.testing.assert_close(both - plain, 0.5 * (of_each * tokens).sum() / tokens.sum())


def test_a_loss_that_is_looked_at_late_is_still_told_by_its_step():
    from pipeline.training.trainer import _refuse_infinite

    finite, broken = torch.tensor(2.5), torch.tensor(float("inf"))
    _refuse_infinite([finite, finite], 3)
    with pytest.raises(NumericError, match="the loss is inf in epoch 3, step 2"):
        _refuse_infinite([finite, broken, broken], 3)


def test_self_critical_training_raises_the_reward():
    rows = train(
        reward=reward,
        epochs=1,
        patience=40,
        scst={"epochs": 25, "lr": 2e-2, "samples": 5, "cross_entropy": 0.0},
    )[1]
    assert rows[0].reward == 0
    assert rows[-1].reward > rows[1].reward + 20


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
def test_the_learning_rate_rises_first(kind):
    schedule = Schedule(small_params(train={"schedule": kind, "warmup": 0.25, "epochs": 10}).train, 10)
    rates = [schedule.factor(step) for step in range(100)]
    assert rates[0] < rates[10] < rates[24] == 1
    assert rates[99] == {"cosine": pytest.approx(0.1, abs=0.01), "plateau": 1, "constant": 1}[kind]


def test_a_plateau_halves_the_learning_rate():
    schedule = Schedule(small_params(train={"schedule": "plateau", "warmup": 0.0, "epochs": 10}).train, 10)
    seen = []
    for improved in (True, False, False, False, False, True):
        schedule.end_epoch(improved=improved)
        seen.append(schedule.factor(50))
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_moving_average_trails_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = MovingAverage(network, 0.9)
    torch.nn.init.ones_(network.weight)
    for _ in range(3):
        average.update()
    average.swap()
    assert 0.5 < network.weight.item() < 1
    average.swap()
    assert network.weight.item() == 1


def test_bfloat16_training_learns_too():
    trained, _, _ = train(precision="auto")
    assert trained.best.val_cider_d > 50


def test_self_critical_loss_favours_the_better_sample():
    torch.manual_seed(0)
    params = small_params()
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=8, regions=1, channels=3)
    features, rows = torch.eye(3).view(3, 1, 3), torch.arange(3)

    def favours_five(rows, captions):
        return torch.tensor([float(5 in caption) for caption in captions])

    state = decoder.eval().start(features)
    before = decoder.step(state, torch.full((3,), 1))[0][:, 5].exp().mean()
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    with deterministic(1):
        for seed in range(30):
            loss, *_ = self_critical(decoder, features, rows, favours_five, samples=6, max_length=3, seed=seed)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = decoder.eval().step(decoder.start(features), torch.full((3,), 1))[0][:, 5].exp().mean()
    assert after > before + 0.2
