import pytest

from pipeline.metrics.rouge import rouge_l


def test_order_counts_and_gaps_do_not():
    in_order, reversed_order = rouge_l(["a b c", "c b a"], [["a x b y c"], ["a x b y c"]])
    assert in_order == pytest.approx(2.44 * 1.0 * 0.6 / (0.6 + 1.44 * 1.0))
    assert reversed_order == pytest.approx(2.44 * (1 / 3) * 0.2 / (0.2 + 1.44 / 3))


def test_precision_and_recall_may_come_from_different_references():
    precise, short = "a b c d e f g h", "a b z"
    (score,) = rouge_l(["a b c d"], [[precise, short]])
    assert score == pytest.approx(2.44 * 1.0 * (2 / 3) / (2 / 3 + 1.44 * 1.0))


def test_a_caption_longer_than_a_machine_word_is_counted_whole():
    words = [f"w{number}" for number in range(200)]
    (score,) = rouge_l([" ".join(words)], [[" ".join(words[:150])]])
    assert score == pytest.approx(2.44 * 0.75 * 1.0 / (1.0 + 1.44 * 0.75))
