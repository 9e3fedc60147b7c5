"""Which pictures the report holds, and what it shows of them."""

import pytest
from conftest import write_dataset

from pipeline.decoders.beam_search import Hypothesis
from pipeline.encoders.spec import EncoderSpec, Preprocessing
from pipeline.metrics.evaluation import evaluate
from pipeline.report.gallery import EACH, make_cards, seen_by


def spec(shorter_side=None, grid=2):
    transform = Preprocessing(224, shorter_side, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (255, 255, 255))
    return EncoderSpec("vgg11", "file", "ab" * 32, "features.14", grid, transform, "float32")


def cards(folder, captions, *, attention=((0.25,) * 4,) * 3, grid=2, gone=()):
    write_dataset(folder, pictures=1)
    file = next((folder / "images").glob("*.png"))
    found = {
        image: Hypothesis(tuple(range(len(caption.split()))), -1.0, -1.0, attention)
        for image, caption in captions.items()
    }
    references = {image: [f"a dog runs on grass near {image}"] for image in captions}
    evaluation = evaluate(captions, references, seed=0, resamples=10)
    files = {image: folder / "nowhere.png" if image in gone else file for image in captions}
    return {card.image: card for card in make_cards(found, evaluation, files, spec(grid=grid), seed=3)}


def test_signs_of_single_captions_are_named(tmp_path):
    found = cards(
        tmp_path,
        {
            "1": "a dog runs on grass",
            "2": "a man on a",
            "3": "a man on a",
            "4": "a red cat and a red cat",
            "5": "a a dog",
            "6": "a dog runs",
            "7": "a dog runs on snow",
            "8": "a dog runs a dog",
        },
    )
    assert {image: card.signs for image, card in found.items()} == {
        "1": (),
        "2": ("shared", "unfinished", "none"),
        "3": ("shared", "unfinished", "none"),
        "4": ("repeats", "none"),
        "5": ("repeats", "none"),
        "6": ("none",),
        "7": (),
        "8": ("none",),
    }


def test_each_card_has_its_scores_and_its_place_in_one_random_order(tmp_path):
    found = cards(tmp_path, {str(number): "a dog runs" for number in range(9)})
    assert sorted(card.chance for card in found.values()) == list(range(9))
    assert [card.chance for card in found.values()] != list(range(9))
    assert list(found["0"].scores) == ["BLEU-4", "CIDEr-D", "ROUGE-L"]


def test_of_many_pictures_the_best_the_worst_and_some_at_random_are_held(tmp_path):
    number = 6 * EACH
    found = cards(tmp_path, {str(place): "a dog runs on grass"[: 3 + place % 17] for place in range(number)})
    held = [card for card in found.values() if card.picture]
    assert len(found) == number
    assert 2 * EACH < len(held) <= 4 * EACH
    order = sorted(found.values(), key=lambda card: (card.scores["CIDEr-D"], int(card.image)))
    assert all(card.picture for card in (*order[:EACH], *order[-EACH:]))
    assert all(card.looks is None for card in found.values() if not card.picture)


def test_a_picture_that_is_gone_keeps_its_caption(tmp_path):
    found = cards(tmp_path, {"1": "a dog runs", "2": "a dog"}, gone={"2"})
    assert found["1"].picture
    assert found["2"].picture is None
    assert found["2"].caption == "a dog"


@pytest.mark.parametrize(("attention", "grid"), [(None, 2), (((0.2,) * 5,) * 3, 2), (((0.25,) * 4,) * 3, 3)])
def test_looks_that_are_no_grid_are_not_drawn(tmp_path, attention, grid):
    assert cards(tmp_path, {"1": "a dog runs"}, attention=attention, grid=grid)["1"].looks is None


def test_the_encoder_sees_the_whole_picture_or_its_centre():
    assert seen_by(spec().transform, 400, 300) == (0.0, 0.0, 1.0, 1.0)
    left, top, width, height = seen_by(spec(shorter_side=256).transform, 400, 300)
    assert (width * 400, height * 300) == pytest.approx((262.5, 262.5))
    assert (left * 400, top * 300) == pytest.approx((68.75, 18.75))
