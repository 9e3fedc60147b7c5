"""The geometry of line charts and bar charts, in SVG units; the template `macros.html.j2` draws them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 30
"""Margins around the plot."""
_TICKS = 4
MAX_BARS = 60
"""A bar chart has at most this many positions; the last one counts everything from there on."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A text in the drawing."""

    x: float
    y: float
    text: str
    anchor: str
    """SVG's text-anchor: start, middle or end."""


@dataclass(frozen=True)
class Bar:
    """A bar of one series."""

    x: float
    y: float
    width: float
    height: float
    series: int


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn."""

    title: str
    legend: tuple[str, ...]
    labels: tuple[Label, ...]
    grid: tuple[float, ...]
    """Heights of the horizontal lines."""
    lines: tuple[tuple[Point, ...], ...] = ()
    bars: tuple[Bar, ...] = ()
    dots: tuple[Point, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT


def line_chart(
    title: str, series: Mapping[str, Sequence[Point]], *, x_label: str, mark_best: bool = False
) -> Chart | None:
    """Lines over common axes; `mark_best` marks the highest point of the first series. None without points."""
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    axis = _Axis.covering(min(y for _, y in points), max(y for _, y in points))

    def place(point: Point) -> Point:
        across = 0.5 if x_high == x_low else (point[0] - x_low) / (x_high - x_low)
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), axis.height(point[1])

    dots: tuple[Point, ...] = ()
    if mark_best:
        best = max(next(iter(series.values())), key=lambda point: point[1])
        dots = (place(best),)
        title += f" (best {_short(best[1])} at {_short(best[0])})"
    ends = {x_low: "start", x_high: "end"}
    x_labels = [Label(place((x, 0))[0], HEIGHT - 14, _short(x), anchor) for x, anchor in ends.items()]
    return Chart(
        title=title,
        legend=tuple(series),
        labels=(*axis.labels(x_label), *x_labels),
        grid=axis.grid(),
        lines=tuple(tuple(map(place, line)) for line in series.values()),
        dots=dots,
    )


def bar_chart(title: str, series: Mapping[str, Mapping[int, float]], *, x_label: str) -> Chart | None:
    """Bars of several series side by side at whole numbers, such as lengths. None without bars."""
    numbers = sorted({number for bars in series.values() for number in bars})
    if not numbers:
        return None
    last = min(numbers[-1], numbers[0] + MAX_BARS - 1)
    cut = {name: _counted_up_to(last, bars) for name, bars in series.items()}
    axis = _Axis.covering(0, max(value for bars in cut.values() for value in bars.values()))
    span = range(numbers[0], last + 1)
    step = (WIDTH - LEFT - RIGHT) / len(span)
    width = 0.8 * step / len(series)
    bars = [
        Bar(
            x=round(LEFT + (number - span[0] + 0.1) * step + index * width, 1),
            y=axis.height(value),
            width=round(width, 1),
            height=round(axis.height(0) - axis.height(value), 1),
            series=index,
        )
        for index, values in enumerate(cut.values())
        for number, value in values.items()
    ]
    texts = {number: str(number) for number in span[:: ceil(len(span) / 12)]}
    if last < numbers[-1]:
        texts = {number: text for number, text in texts.items() if number < last - 3} | {last: f"{last}+"}
    x_labels = [
        Label(round(LEFT + (number - span[0] + 0.5) * step, 1), HEIGHT - 14, text, "middle")
        for number, text in texts.items()
    ]
    return Chart(
        title=title,
        legend=tuple(series),
        labels=(*axis.labels(x_label), *x_labels),
        grid=axis.grid(),
        bars=tuple(bars),
    )


def _counted_up_to(last: int, bars: Mapping[int, float]) -> dict[int, float]:
    """The bars up to `last`, which also counts those behind it."""
    counts: Counter[int] = Counter()
    for number, value in bars.items():
        counts[min(number, last)] += value  # type: ignore[assignment]
    return dict(counts)


@dataclass(frozen=True)
class _Axis:
    """The vertical axis, by its ticks."""

    ticks: tuple[float, ...]

    @classmethod
    def covering(cls, low: float, high: float) -> "_Axis":
        """Round ticks from at most `low` to at least `high`."""
        span = (high - low) or abs(high) or 1.0
        rough = span / _TICKS
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        first = floor(low / step)
        last = max(ceil(high / step - 1e-9), first + 1)
        return cls(tuple(step * number for number in range(first, last + 1)))

    def height(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self) -> tuple[float, ...]:
        return tuple(map(self.height, self.ticks))

    def labels(self, x_label: str) -> list[Label]:
        step = self.ticks[1] - self.ticks[0]
        decimals = next(number for number in range(20) if abs(round(step, number) - step) < step / 100)
        texts = [f"{tick:,.{decimals}f}" for tick in self.ticks]
        ticks = [
            Label(LEFT - 6, round(self.height(tick) + 4, 1), text, "end")
            for tick, text in zip(self.ticks, texts, strict=True)
        ]
        return [Label(WIDTH - RIGHT, HEIGHT - 2, x_label, "end"), *ticks]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
