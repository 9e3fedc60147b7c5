"""Which images the report holds, and what it shows of them."""

import pytest
from example_evaluations import make_evaluation, make_spec, write_image

from pipeline.metrics.evaluation_file import EXAMPLES
from pipeline.report.gallery import attention_levels, filters, make_cards

QUARTERS = [[0.25] * 4]


@pytest.fixture
def cards(tmp_path):
    image_file = write_image(tmp_path)

    def make(captions, *, attention=None, grid=2, missing=()):
        references = {image: [f"a dog runs on grass near {image}"] for image in captions}
        spec = make_spec(grid=grid)
        evaluation = make_evaluation(captions, references, attention=attention, spec=spec)
        files = {image: tmp_path / "nowhere.png" if image in missing else image_file for image in captions}
        return {card.record.image: card for card in make_cards(evaluation, files, spec)}

    return make


def test_unusual_captions_have_flags(cards):
    found = cards(
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
    assert {image: card.record.flags for image, card in found.items()} == {
        "1": (),
        "2": ("shared", "unfinished", "no_match"),
        "3": ("shared", "unfinished", "no_match"),
        "4": ("repeats", "no_match"),
        "5": ("repeats", "no_match"),
        "6": ("no_match",),
        "7": (),
        "8": ("no_match",),
    }


def test_a_caption_much_shorter_than_its_references_may_share_four_words_with_one():
    reference = "a brown dog runs on " + "and on " * 30
    (record,) = make_evaluation({"1": "a brown dog runs"}, {"1": [reference]}).images
    assert record.scores["bleu_4"] < 0.01
    assert record.flags == ()


def test_filters_count_the_captions_with_each_flag():
    captions = {"1": "a dog runs on grass", "2": "a man on a", "3": "a man on a"}
    evaluation = make_evaluation(captions, {image: ["a dog runs on grass"] for image in captions})
    assert [(flag, count) for flag, _, count in filters(evaluation)] == [
        ("shared", 2),
        ("unfinished", 2),
        ("repeats", 0),
        ("no_match", 2),
    ]


def test_each_image_has_its_scores_and_its_rank_in_one_random_order(cards):
    found = cards({str(number): "a dog runs" for number in range(9)})
    ranks = [card.record.random_rank for card in found.values()]
    assert sorted(ranks) == list(range(9))
    assert ranks != list(range(9))
    assert set(found["0"].record.scores) >= {"bleu_4", "cider_d", "rouge_l"}


def test_of_many_images_the_best_the_worst_and_some_random_ones_are_held(cards):
    number = 6 * EXAMPLES
    found = cards({str(index): "a dog runs on grass"[: 3 + index % 17] for index in range(number)}, attention=QUARTERS)
    held = [card for card in found.values() if card.thumbnail]
    assert len(found) == number
    assert 2 * EXAMPLES < len(held) <= 4 * EXAMPLES
    order = sorted(found.values(), key=lambda card: (card.record.scores["cider_d"], card.record.image))
    assert all(card.thumbnail for card in (*order[:EXAMPLES], *order[-EXAMPLES:]))
    assert all(card.attention is None for card in found.values() if not card.thumbnail)


def test_an_image_that_is_gone_keeps_its_caption(cards):
    found = cards({"1": "a dog runs", "2": "a dog"}, missing={"2"})
    assert found["1"].thumbnail
    assert found["2"].thumbnail is None
    assert found["2"].record.caption == "a dog"


@pytest.mark.parametrize(("attention", "grid"), [(None, 2), ([[0.2] * 5], 2), (QUARTERS, 3)])
def test_attention_weights_that_are_no_grid_are_not_drawn(cards, attention, grid):
    assert cards({"1": "a dog runs"}, attention=attention, grid=grid)["1"].attention is None


def test_attention_covers_what_the_encoder_sees(cards, tmp_path):
    assert cards({"1": "a dog"}, attention=QUARTERS)["1"].attention.region == (0.0, 0.0, 1.0, 1.0)
    spec = make_spec(shorter_side=256)
    evaluation = make_evaluation({"1": "a dog"}, {"1": ["a dog"]}, attention=QUARTERS, spec=spec)
    (card,) = make_cards(evaluation, {"1": write_image(tmp_path)}, spec)
    assert card.attention.region == pytest.approx((0.15, 0.0625, 0.85, 0.9375))


def test_attention_weights_are_levels_of_each_words_largest_weight():
    assert attention_levels([[0.5, 0.25, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]]) == "_W0W 0000"
