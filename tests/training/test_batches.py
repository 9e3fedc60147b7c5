"""Batches: every caption once per epoch, in an order that depends on seed and epoch alone."""

import pytest

from pipeline.tokens import PAD
from pipeline.training.batches import Batches
from pipeline.training.distributed import SINGLE_PROCESS, ProcessGroup

CAPTIONS = [[1, *range(4, 4 + length), 2] for length in (3, 5, 2, 3, 7, 1, 4, 6, 2, 3)]


def make_batches(seed=1, size=3):
    return Batches(CAPTIONS, list(range(10)), batch_size=size, seed=seed)


def epoch(number, seed=1):
    return [(batch.images.tolist(), batch.inputs.tolist()) for batch in make_batches(seed).epoch(number)]


def test_an_epoch_has_every_caption_once():
    assert sorted(image for images, _ in epoch(1) for image in images) == list(range(10))


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    assert epoch(2) == epoch(2)
    assert epoch(2) != epoch(3)
    assert epoch(2) != epoch(2, seed=5)


def test_captions_of_similar_length_share_a_batch():
    padding = sum(batch.targets.numel() - batch.tokens for batch in make_batches().epoch(1))
    assert padding <= 8


def test_positions_are_those_of_the_real_tokens():
    for batch in make_batches().epoch(1):
        assert batch.positions.tolist() == (batch.targets != PAD).flatten().nonzero().squeeze(1).tolist()
        assert batch.tokens == len(batch.positions) == sum(len(CAPTIONS[image]) - 1 for image in batch.images)


def test_targets_are_inputs_shifted_by_one():
    for batch in make_batches().epoch(1):
        for image, inputs, targets in zip(batch.images, batch.inputs, batch.targets, strict=True):
            caption, real = CAPTIONS[image], targets != PAD
            assert inputs[real].tolist() == caption[:-1]
            assert targets[real].tolist() == caption[1:]


def test_an_image_epoch_has_every_image_with_a_caption_once():
    batches = Batches(CAPTIONS, [0, 0, 1, 1, 1, 2, 5, 5, 6, 7], batch_size=3, seed=1)
    images = [image for batch in batches.image_epoch(1, 4) for image in batch.tolist()]
    assert sorted(images) == [0, 1, 2, 5, 6, 7]
    assert images != sorted(images)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_shares_of_the_processes_make_up_the_batches_of_one_process(count):
    device = SINGLE_PROCESS.device
    shares = [list(make_batches().epoch(2, ProcessGroup(device, rank, count))) for rank in range(count)]
    whole = list(make_batches().epoch(2))
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        of_processes = [share[number] for share in shares]
        images = [image for share in of_processes if len(share.positions) for image in share.images.tolist()]
        assert sorted(images) == sorted(batch.images.tolist())
        assert sum(len(share.positions) for share in of_processes) == batch.tokens
        assert {share.tokens for share in of_processes} == {batch.tokens}


def test_a_process_without_a_share_gets_a_caption_without_real_tokens():
    shares = list(make_batches().epoch(1, ProcessGroup(SINGLE_PROCESS.device, 2, 4)))
    assert sorted(len(share.positions) > 0 for share in shares) == [False, True, True, True]
    assert all(len(share.images) == 1 for share in shares)
