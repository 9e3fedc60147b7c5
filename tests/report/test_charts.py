from pipeline.report.charts import HEIGHT, LEFT, WIDTH, bar_chart, line_chart


def test_a_line_runs_from_the_first_to_the_last_value():
    chart = line_chart("Loss", {"train": [(1, 2.0), (2, 1.0), (3, 0.0)]}, x_label="epoch")
    (line,) = chart.lines
    assert [x for x, _ in line] == [LEFT, (LEFT + chart.right) / 2, chart.right]
    assert line[0][1] < line[1][1] < line[2][1]
    assert {label.text for label in chart.labels} >= {"epoch", "1", "3", "0.0", "2.0"}


def test_the_best_point_is_marked_and_named():
    chart = line_chart("Score", {"val": [(1, 10.0), (2, 30.0), (3, 20.0)]}, x_label="epoch", mark_best=True)
    assert chart.dots == (chart.lines[0][1],)
    assert chart.title == "Score (best 30 at 2)"


def test_one_point_and_equal_values_are_drawn_inside():
    chart = line_chart("Loss", {"train": [(1, 2.0)]}, x_label="epoch")
    ((point,),) = chart.lines
    assert 0 < point[0] < WIDTH
    assert 0 < point[1] < HEIGHT


def test_bars_of_several_series_are_side_by_side():
    chart = bar_chart("Words", {"ours": {3: 50.0, 5: 50.0}, "theirs": {3: 100.0}}, x_label="words")
    ours, _, theirs = chart.bars
    assert theirs.x == ours.x + ours.width
    assert theirs.height > ours.height
    assert chart.legend == ("ours", "theirs")


def test_one_long_caption_does_not_hide_the_others():
    chart = bar_chart("Words", {"ours": {5: 100, 10: 300, 900: 1, 10_000: 2}}, x_label="words")
    assert min(bar.width for bar in chart.bars) > 4
    assert [bar.height > 0 for bar in chart.bars] == [True] * 3
    assert "64+" in {label.text for label in chart.labels}


def test_ticks_close_together_have_enough_decimals():
    for low, high, expected in [
        (100.2, 101.9, ["100.0", "100.5", "101.0"]),
        (55.1, 55.95, ["55.00", "55.25", "55.50"]),
    ]:
        chart = line_chart("Score", {"val": [(1, low), (2, high)]}, x_label="epoch")
        assert [label.text for label in chart.labels if label.anchor == "end"][1:4] == expected


def test_a_chart_without_values_is_left_out():
    assert line_chart("Loss", {}, x_label="epoch") is None
    assert bar_chart("Words", {"ours": {}}, x_label="words") is None
