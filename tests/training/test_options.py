"""Each option of the training has its effect: seen on a small trainer, after one step where that is enough.

Thirty pictures of three colours, with a caption of three words for each.
"""

import copy
from collections import Counter
from dataclasses import fields

import pytest
import torch
from conftest import small_params
from torch.nn import functional

from pipeline.decoders import make_decoder
from pipeline.decoders.beam_search import SamplingOptions, sample
from pipeline.text.vocabulary import Vocabulary
from pipeline.training import trainer as training
from pipeline.training.batches import Batches, epoch_seed
from pipeline.training.determinism import deterministic
from pipeline.training.losses import self_critical
from pipeline.training.trainer import Epoch, Trainer

TEXTS = [["all", "so", ("red", "green", "blue")[number % 3]] for number in range(30)]
VOCABULARY = Vocabulary.build(TEXTS, min_count=1, tokenizer="ptb")
SEED, LONGEST = 1, 4
ALL = 1 - 1e-9
"""The largest share that an option can have."""


@pytest.fixture(autouse=True)
def one_thread():
    with deterministic(1):
        yield


def constant(rows, captions):
    """Every caption is as good as any: nothing is to be learnt from it."""
    return torch.ones(len(captions))


def by_length(rows, captions):
    return torch.tensor([float(len(caption)) for caption in captions])


def make(reward=constant, decoder=None, **changes):
    """A trainer of one step per epoch, unless asked for others; the keywords are of params.train."""
    train = {"batch_size": 30, "lr": 1e-2, "weight_decay": 0.0, "clip": 1e9, **changes}
    params = small_params(train=train, decoder={"kind": "inject", **(decoder or {})})
    torch.manual_seed(0)
    return Trainer(
        make_decoder(params.decoder.model_dump(), vocabulary=len(VOCABULARY), regions=1, channels=3),
        torch.eye(3).repeat(10, 1).view(30, 1, 3),
        Batches(VOCABULARY.encode(TEXTS), list(range(30)), batch_size=params.train.batch_size, seed=SEED),
        VOCABULARY,
        params.train,
        seed=SEED,
        device=torch.device("cpu"),
        reward=reward,
        longest=LONGEST,
    )


def scst(**changes):
    return {"epochs": 3, "lr": 1e-2, "samples": 5, "cross_entropy": 0.0, **changes}


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.decoder.named_parameters()}


def distance(ones, others):
    return max(float((ones[name] - others[name]).abs().max()) for name in ones)


def run(trainer, *scores):
    """So many epochs, with these scores of the val pictures."""
    for score in scores:
        number = len(trainer.rows) + 1
        trainer.epoch(number)
        if trainer.average:
            trainer.average.swap()  # as validation leaves it
        others = dict.fromkeys((field.name for field in fields(Epoch)), 1.0)
        trainer.keep(Epoch(**{**others, "epoch": number, "val_cider_d": score}))


def switched(*scores, **changes):
    """A trainer whose next epoch is a self-critical one, after epochs with these scores."""
    trainer = make(**{"epochs": len(scores), "scst": scst(), **changes})
    run(trainer, *scores)
    assert trainer.goes_on()
    assert trainer.switched_after == len(scores)
    return trainer


def test_weights_decay_beside_the_step():
    before = weights(make())
    free, decayed = make(), make(weight_decay=0.5)
    free.epoch(1)
    decayed.epoch(1)
    for (name, after), decay in zip(weights(free).items(), weights(decayed).values(), strict=True):
        torch.testing.assert_close(after - decay, 1e-2 * 0.5 * before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_the_gradient_is_cut_to_its_largest_norm(clip):
    trainer = make(clip=clip)
    trainer.epoch(1)
    norm = float(torch.cat([parameter.grad.flatten() for parameter in trainer.decoder.parameters()]).norm())
    assert norm == pytest.approx(1e-3, rel=1e-2) if clip == 1e-3 else norm > 0.1


def test_label_smoothing_asks_for_a_share_of_every_word():
    trainer = make(label_smoothing=0.3)
    (batch,) = trainer.batches.epoch(1)
    with torch.no_grad():
        logs = trainer.decoder(trainer.features[batch.images], batch.inputs).log_softmax(-1)
    said = logs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
    expected = -(0.7 * said + 0.3 * logs.mean(-1)).mean()
    assert trainer.epoch(1)[0] == pytest.approx(float(expected), rel=1e-5)


def test_words_of_its_own_come_in_from_epoch_to_epoch(monkeypatch):
    trainer = make(scheduled_sampling=ALL, epochs=3)
    embed, size, people, read = trainer.decoder.words, len(VOCABULARY), [], []

    def after(tokens):
        return (tokens + 1) % size

    def noting(tokens):
        read.append(tokens)
        return embed(tokens)

    monkeypatch.setattr(trainer.decoder, "words", noting)
    monkeypatch.setattr(trainer.decoder, "forward", lambda _, tokens: 100.0 * functional.one_hot(after(tokens), size))
    for number in (1, 2, 3):
        people += [batch.inputs for batch in trainer.batches.epoch(number)]
        trainer.epoch(number)
    own = [torch.cat([tokens[:, :1], after(tokens[:, :-1])], 1) for tokens in people]
    differ = own[1] != people[1]
    assert torch.equal(read[0], people[0])
    assert torch.equal(read[1][~differ], people[1][~differ])
    assert 0.2 < (read[1] == own[1])[differ].float().mean() < 0.8
    assert torch.equal(read[2], own[2])


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_share_of_the_self_critical_loss_is_that_of_peoples_captions(share):
    trainer = switched(50.0, reward=by_length, batch_size=150, scst=scst(cross_entropy=share))
    decoder = copy.deepcopy(trainer.decoder)
    (rows,) = trainer.batches.pictures(2, 30)
    how = {"samples": 5, "max_length": LONGEST, "seed": epoch_seed(SEED, 2)}
    drawn, *_ = self_critical(decoder, trainer.features[rows], rows, by_length, **how)
    (batch,) = trainer.batches.epoch(2)
    logits = decoder(trainer.features[batch.images], batch.inputs)
    taught = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    expected = (1 - share) * drawn.item() + share * taught.item()
    assert trainer.epoch(2)[0] == pytest.approx(expected, rel=1e-5)


def test_self_critical_training_begins_without_momentum():
    trainer = switched(50.0, 60.0)
    before = weights(trainer)
    trainer.epoch(3)  # nothing to be learnt: what moves the weights is left from before
    assert distance(before, weights(trainer)) == 0


def test_self_critical_training_begins_at_the_best_weights():
    trainer = make(epochs=3, scst=scst())
    run(trainer, 10.0, 50.0)
    best = weights(trainer)
    run(trainer, 20.0)
    assert distance(best, weights(trainer)) > 1e-3
    assert trainer.goes_on()
    assert distance(best, weights(trainer)) == 0


def test_the_moving_average_starts_again_at_the_best_weights():
    trainer = switched(10.0, 50.0, 20.0, ema=0.9)
    best = weights(trainer)
    trainer.epoch(4)  # nothing to be learnt: the average of weights that stand still
    trainer.average.swap()
    assert distance(best, weights(trainer)) < 1e-6
    assert trainer.average.steps == 3 + 5  # counted on: the first ones after an untrained start would weigh more


def test_captions_are_drawn_without_dropout_and_learnt_from_with_it():
    trainer = make(decoder={"output_dropout": 0.9})
    decoder, rows, scored, modes = trainer.decoder.train(), torch.arange(3), [], []
    whole = copy.deepcopy(decoder).eval()
    decoder.register_forward_hook(lambda module, *_: modes.append(module.training))

    def noting(rows, captions):
        scored.extend(captions)
        return constant(rows, captions)

    self_critical(decoder, trainer.features[rows], rows, noting, samples=20, max_length=LONGEST, seed=7)
    generator = torch.Generator().manual_seed(7)
    drawn = sample(whole, trainer.features[rows], SamplingOptions(max_length=LONGEST), captions=20, generator=generator)
    assert scored == [one.tokens for found in drawn for one in found]
    assert modes == [True]


def test_peoples_captions_do_not_run_out(monkeypatch):
    trainer = switched(50.0, batch_size=5, scst=scst(cross_entropy=0.5))
    real, read = training.cross_entropy, []

    def noting(decoder, features, batch, **options):
        read.append(batch.images.tolist())
        return real(decoder, features, batch, **options)

    monkeypatch.setattr(training, "cross_entropy", noting)
    trainer.epoch(2)
    assert len(read) == 30  # a picture per step, whose five samples are a batch
    assert Counter(image for images in read for image in images) == dict.fromkeys(range(30), 5)
    assert read[:6] != read[6:12]


def test_the_best_weights_of_a_resumed_run_are_on_its_device():
    before, resumed = make(), make()
    run(before, 50.0)
    resumed.device = torch.device("meta")  # the rest of it stays: there are no weights to train there
    resumed.restore(before.state())
    ((epoch, kept),) = resumed.kept
    assert epoch == 1
    assert {weight.device for weight in kept.values()} == {resumed.device}
