"""Batches and the loop: every caption once, the same way each time, and stopping at the right moment."""

import pytest
import torch
from conftest import small_params

from pipeline.captions.vocabulary import Vocabulary
from pipeline.decoders import make_decoder
from pipeline.errors import NumericError
from pipeline.training.batches import Batches
from pipeline.training.loop import Validation, deterministic, train_decoder

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
    padding = sum((~batch.real).sum().item() for batch in batches().epoch(1))
    assert padding <= 8


def test_the_targets_are_the_inputs_one_later():
    for batch in batches().epoch(1):
        for image, read, said, real in zip(batch.images, batch.inputs, batch.targets, batch.real, strict=True):
            caption = CAPTIONS[image]
            assert read[real].tolist() == caption[:-1]
            assert said[real].tolist() == caption[1:]


WORDS = ["red", "green", "blue"]


def train(device="cpu", **changes):
    """Three colours as features, three words as captions."""
    params = small_params(train={"epochs": 12, "patience": 12, "lr": 1e-2, **changes})
    vocabulary = Vocabulary.build([["all", word] for word in WORDS], min_count=1, tokenizer="ptb")
    features = torch.eye(3).repeat(10, 1).view(30, 1, 3).half()
    texts = [["all", WORDS[number % 3]] for number in range(30)]
    torch.manual_seed(0)
    decoder = make_decoder(params.decoder.model_dump(), vocabulary=len(vocabulary), regions=1, channels=3)
    rows = []
    with deterministic(1):
        trained = train_decoder(
            decoder,
            features,
            Batches(vocabulary.encode(texts), list(range(30)), batch_size=8, seed=1),
            Validation(features[:6], [[" ".join(text)] for text in texts[:6]]),
            vocabulary,
            params.train,
            seed=1,
            device=torch.device(device),
            on_epoch=rows.append,
        )
    return trained, rows, decoder


def test_training_learns_and_the_best_epoch_is_kept():
    trained, rows, _ = train()
    assert rows[-1].train_loss < rows[0].train_loss
    assert trained.best.val_cider_d == max(row.val_cider_d for row in rows) > 50


def test_training_gives_the_same_bits_each_time():
    _, first_rows, first = train()
    _, second_rows, second = train()
    assert [row.train_loss for row in first_rows] == [row.train_loss for row in second_rows]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_training_stops_when_the_captions_get_no_better():
    trained, rows, _ = train(epochs=40, patience=2)
    assert len(rows) == trained.epochs == trained.best.epoch + 2 < 40


def test_a_loss_that_is_no_number_stops_with_its_place():
    with pytest.raises(NumericError, match=r"in epoch \d+, step \d+; lower params.train.lr"):
        train(lr=1e30, clip=1e30, weight_decay=1e10)
